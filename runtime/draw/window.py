"""Run the window, which turns mouse and keys into ink, and ink into answers, until it is closed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..opencv import cv2
from ..outputs.display import require_display
from ..outputs.window import QUIT_KEYS, is_visible, pressed_key
from .canvas import THICKNESS, Canvas
from .digits import drawn_frame
from .models import Answer, Model, answers
from .page import CANVAS, TITLE, View, draw_page
from .save import save_drawing
from .zoom import Zoom

__all__ = ["ELSEWHERE", "DrawWindow"]
WAIT = 10  # milliseconds that each turn waits for events
STEP = 2  # pixels of thickness at a time
ELSEWHERE = "hybrid-draw is a window: start it where there is a screen"
IDLE_REDRAW = 0.5  # seconds after which the window is drawn anew even if nothing changed
GRACE = 0.5  # seconds that a live answer stays while the next one is on its way: dimming it would flicker
SHARE = 2  # in live mode, after a prediction the next one waits so many times its duration
ERASES = (cv2.EVENT_RBUTTONDOWN, cv2.EVENT_RBUTTONDBLCLK)
PRESSES = (cv2.EVENT_LBUTTONDOWN, cv2.EVENT_LBUTTONDBLCLK, *ERASES)  # Qt calls the second of two a double click
RELEASES = (cv2.EVENT_LBUTTONUP, cv2.EVENT_RBUTTONUP)
Frame = npt.NDArray[np.uint8]
Reporter = Callable[[Sequence[Answer]], None]


class DrawWindow:
    """This window lets the user draw, asks the models, and shows and reports what they say.

    Args:
        models: the models to ask, at least one.
        report: takes the answers of each prediction asked for by P, or in live mode made at the end of a stroke.
        live: whether to predict while drawing.
        thickness: the thickness of the brush, pixels.
        saved: the folder that S saves to.

    Raises:
        UsageError: no window can be opened here.
    """

    def __init__(
        self,
        models: Sequence[Model],
        report: Reporter,
        *,
        live: bool = False,
        thickness: int = THICKNESS,
        saved: Path = Path(),
    ) -> None:
        require_display(ELSEWHERE)
        self._models = models
        self._report = report
        self._live = live
        self._saved = saved
        self._canvas = Canvas(thickness)
        self._answers: list[Answer] = []
        self._answered = 0  # the canvas's ``changes`` when the answers were made
        self._answered_at = 0.0
        self._seen: Frame | None = None  # the frame they are about, as a stroke of the eraser may change nothing
        self._next = 0.0  # when live mode may predict again
        self._stroke_ended = False  # whether a stroke ended in live mode that was not answered yet
        self._pointer: tuple[int, int] | None = None
        self._message = ""
        self._changed = True
        self._shown = 0.0
        self._keys = {"c": self._clear, "p": self._predict, "l": self._toggle_live, "s": self._save}
        self._keys |= dict.fromkeys("+=", self._thicker) | dict.fromkeys("-_", self._thinner)
        self._zoom = Zoom()
        self._open()

    def run(self) -> None:
        """Run the window until Q, Esc or its own button closes it.

        Raises:
            BackendError: a model's engine failed.
        """
        while self._turn():
            pass
        if is_visible(TITLE):
            cv2.destroyWindow(TITLE)
            cv2.waitKey(1)  # lets the window system carry it out

    def _open(self) -> None:
        # no tool bar, no menu of the right button, and pixels stay pixels
        cv2.namedWindow(TITLE, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
        cv2.imshow(TITLE, draw_page(self._view()))
        cv2.setMouseCallback(TITLE, self._mouse)

    def _turn(self) -> bool:
        """Handle the events that came and show what changed; return whether to go on."""
        key = pressed_key(WAIT)
        if self._stroke_ended:
            self._stroke_ended = False
            self._predict()
        if key in QUIT_KEYS or not is_visible(TITLE):
            return False
        action = self._keys.get(key)
        if action is not None:
            action()
            self._changed = True
        if self._live and self._answered != self._canvas.changes and time.monotonic() >= self._next:
            self._ask()
        if self._zoom.due() and not self._canvas.drawing:
            self._zoom.undo(self._open)
        if self._redraw_due():
            cv2.imshow(TITLE, draw_page(self._view()))
            self._changed, self._shown = False, time.monotonic()
        return True

    def _redraw_due(self) -> bool:
        now = time.monotonic()
        fades = self._shown < self._answered_at + GRACE <= now
        return self._changed or fades or now >= self._shown + IDLE_REDRAW

    def _mouse(self, event: int, x: int, y: int, flags: int, _: object) -> None:
        point = (x - CANVAS.x, y - CANVAS.y)
        inside = 0 <= point[0] < CANVAS.width and 0 <= point[1] < CANVAS.height
        self._pointer = point if inside else None
        self._changed = True
        if event == cv2.EVENT_MOUSEWHEEL:
            self._canvas.change_thickness(STEP if flags > 0 else -STEP)
            self._zoom.wheel(up=flags > 0)
        elif event in PRESSES and inside:
            self._message = ""
            self._canvas.press(point, erase=event in ERASES)
        elif event in RELEASES and self._canvas.drawing:
            self._canvas.move(point)
            self._canvas.release()
            self._stroke_ended = self._live  # the turn asks the models, as OpenCV lets no error out of a callback
        elif event == cv2.EVENT_MOUSEMOVE:
            self._canvas.move(point)

    def _predict(self) -> None:
        """Ask the models, and report the answers."""
        self._ask()
        self._message = "" if self._answers else "nothing is drawn"
        if self._answers:
            self._report(self._answers)

    def _ask(self) -> None:
        start = time.monotonic()
        self._seen = frame = self._frame()
        self._answers = [] if frame is None else answers(self._models, frame)
        self._answered = self._canvas.changes
        self._changed = True
        self._answered_at = now = time.monotonic()
        self._next = now + SHARE * (now - start)

    def _clear(self) -> None:
        self._canvas.clear()
        self._answers, self._message = [], ""

    def _toggle_live(self) -> None:
        self._live = not self._live

    def _save(self) -> None:
        self._message = "nothing is drawn" if self._canvas.empty else save_drawing(self._canvas.ink, self._saved)

    def _thicker(self) -> None:
        self._canvas.change_thickness(STEP)

    def _thinner(self) -> None:
        self._canvas.change_thickness(-STEP)

    def _frame(self) -> Frame | None:
        """Return what the models see of the canvas now, (28, 28) uint8; None where it is empty."""
        return None if self._canvas.empty else drawn_frame(self._canvas.ink)

    def _outdated(self, frame: Frame | None) -> bool:
        """Return whether the answers are about another frame, and in live mode no newer ones are on their way."""
        if frame is None or self._seen is None:
            return frame is not self._seen
        on_its_way = self._live and time.monotonic() < self._answered_at + GRACE
        return not on_its_way and not np.array_equal(frame, self._seen)

    def _view(self) -> View:
        frame = self._frame()
        return View(
            ink=self._canvas.ink,
            frame=frame,
            names=[(model.name, model.variant) for model in self._models],
            answers=self._answers,
            outdated=self._outdated(frame),
            thickness=self._canvas.thickness,
            live=self._live,
            pointer=self._pointer,
            message=self._message,
        )
