"""Runs the window, which turns mouse and keys into ink, and ink into answers, until it is closed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..digits import drawn_frame
from ..frame import Pixels
from ..opencv import cv2
from ..outputs.display import QUIT_KEYS, close_window, is_visible, pressed_key
from .page import PAPER_BOX, TITLE, View, draw_page
from .paper import THICKNESS, Paper, save_drawing
from .readers import Reader, Reading, read_drawing

KEY_WAIT = 10  # milliseconds that each turn waits for events
THICKNESS_STEP = 2  # pixels
IDLE_REDRAW = 0.5  # seconds after which the window is drawn anew even if nothing changed
LIVE_GRACE = 0.5  # seconds that a live answer stays while the next one is on its way: dimming it would flicker
LIVE_PAUSE = 2  # in live mode, after a prediction the next one waits so many times its duration
WHEEL_REST = 0.3  # seconds without the wheel before a zoomed window is opened anew
MAX_NOTCHES = 60  # notches of the wheel that count, as Qt stops zooming at a hundredfold
ERASES = (cv2.EVENT_RBUTTONDOWN, cv2.EVENT_RBUTTONDBLCLK)
PRESSES = (cv2.EVENT_LBUTTONDOWN, cv2.EVENT_LBUTTONDBLCLK, *ERASES)  # Qt calls the second of two a double click
RELEASES = (cv2.EVENT_LBUTTONUP, cv2.EVENT_RBUTTONUP)


class DrawWindow:
    """This window lets the user draw, asks the models, and shows and reports what they say.

    ``live`` predicts while drawing. ``report`` takes the answers of each prediction asked for by P, or in live mode
    made at the end of a stroke. The brush's thickness is in pixels; S saves to the folder ``saved``.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        report: Callable[[Sequence[Reading]], None],
        *,
        live: bool = False,
        thickness: int = THICKNESS,
        saved: Path = Path(),
    ) -> None:
        self._readers = readers
        self._report = report
        self._live = live
        self._saved = saved
        self._paper = Paper(thickness)
        self._readings: list[Reading] = []
        self._answered_changes = 0  # the paper's ``changes`` when the answers were made
        self._answered_at = 0.0
        # the frame they are about, as a stroke of the eraser may change nothing
        self._answered_frame: Pixels | None = None
        self._live_due = 0.0  # when live mode may predict again
        self._stroke_ended = False  # whether a stroke ended in live mode that was not answered yet
        self._pointer: tuple[int, int] | None = None
        self._message = ""
        self._changed = True
        self._drawn_at = 0.0
        self._keys: dict[str, Callable[[], None]] = {
            "c": self._clear,
            "p": self._predict,
            "l": self._toggle_live,
            "s": self._save,
        }
        self._keys |= dict.fromkeys("+=", lambda: self._paper.change_thickness(THICKNESS_STEP))
        self._keys |= dict.fromkeys("-_", lambda: self._paper.change_thickness(-THICKNESS_STEP))
        self._zoom = _Zoom()
        self._open()

    def run(self) -> None:
        """Run the window until Q, Esc or its own button closes it; BackendError says that a model's engine failed."""
        while self._turn():
            pass
        close_window(TITLE)

    def _open(self) -> None:
        # no tool bar, no menu of the right button, and pixels stay pixels
        cv2.namedWindow(TITLE, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
        cv2.imshow(TITLE, draw_page(self._view()))
        cv2.setMouseCallback(TITLE, self._mouse)

    def _turn(self) -> bool:
        """Handle the events that came and show what changed; return whether to go on."""
        key = pressed_key(KEY_WAIT)
        if self._stroke_ended:
            self._stroke_ended = False
            self._predict()
        if key in QUIT_KEYS or not is_visible(TITLE):
            return False
        action = self._keys.get(key)
        if action is not None:
            action()
            self._changed = True
        if self._live and self._answered_changes != self._paper.changes and time.monotonic() >= self._live_due:
            self._ask()
        if self._zoom.due() and not self._paper.drawing:
            self._zoom.undo(self._open)
        if self._redraw_due():
            cv2.imshow(TITLE, draw_page(self._view()))
            self._changed, self._drawn_at = False, time.monotonic()
        return True

    def _redraw_due(self) -> bool:
        now = time.monotonic()
        fades = self._drawn_at < self._answered_at + LIVE_GRACE <= now
        return self._changed or fades or now >= self._drawn_at + IDLE_REDRAW

    def _mouse(self, event: int, x: int, y: int, flags: int, _: object) -> None:
        point = (x - PAPER_BOX.x, y - PAPER_BOX.y)
        inside = 0 <= point[0] < PAPER_BOX.width and 0 <= point[1] < PAPER_BOX.height
        self._pointer = point if inside else None
        self._changed = True
        if event == cv2.EVENT_MOUSEWHEEL:
            self._paper.change_thickness(THICKNESS_STEP if flags > 0 else -THICKNESS_STEP)
            self._zoom.wheel(up=flags > 0)
        elif event in PRESSES and inside:
            self._message = ""
            self._paper.press(point, erase=event in ERASES)
        elif event in RELEASES and self._paper.drawing:
            self._paper.move(point)
            self._paper.release()
            self._stroke_ended = self._live  # the turn asks the models, as OpenCV lets no error out of a callback
        elif event == cv2.EVENT_MOUSEMOVE:
            self._paper.move(point)

    def _predict(self) -> None:
        self._ask()
        self._message = "" if self._readings else "nothing is drawn"
        if self._readings:
            self._report(self._readings)

    def _ask(self) -> None:
        start = time.monotonic()
        self._answered_frame = frame = self._frame()
        self._readings = [] if frame is None else read_drawing(self._readers, frame)
        self._answered_changes = self._paper.changes
        self._changed = True
        self._answered_at = now = time.monotonic()
        self._live_due = now + LIVE_PAUSE * (now - start)

    def _clear(self) -> None:
        self._paper.clear()
        self._readings, self._message = [], ""

    def _toggle_live(self) -> None:
        self._live = not self._live

    def _save(self) -> None:
        self._message = "nothing is drawn" if self._paper.empty else save_drawing(self._paper.ink, self._saved)

    def _frame(self) -> Pixels | None:
        """Return what the models see of the paper now, (28, 28) uint8; None where it is empty."""
        return None if self._paper.empty else drawn_frame(self._paper.ink)

    def _outdated(self, frame: Pixels | None) -> bool:
        """Return whether the answers are about another frame, and in live mode no newer ones are on their way."""
        if frame is None or self._answered_frame is None:
            return frame is not self._answered_frame
        on_its_way = self._live and time.monotonic() < self._answered_at + LIVE_GRACE
        return not on_its_way and not np.array_equal(frame, self._answered_frame)

    def _view(self) -> View:
        frame = self._frame()
        return View(
            ink=self._paper.ink,
            frame=frame,
            names=[(reader.name, reader.variant) for reader in self._readers],
            readings=self._readings,
            outdated=self._outdated(frame),
            thickness=self._paper.thickness,
            live=self._live,
            pointer=self._pointer,
            message=self._message,
        )


class _Zoom:
    """This class counts how far the wheel has zoomed a window of Qt's in, which OpenCV can't switch off.

    OpenCV's Qt view enlarges by a tenth at each notch up, shrinks by a tenth at each notch down, and never under its
    own size (``DefaultViewPort::scaleView`` in modules/highgui/src/window_QT.cpp). Only a new window is not zoomed.
    """

    def __init__(self) -> None:
        self._active = _windows_are_qt()
        self._notches = 0
        self._moved = 0.0

    def wheel(self, *, up: bool) -> None:
        """Note that the wheel turned by one notch."""
        if self._active:
            self._notches = min(max(self._notches + (1 if up else -1), 0), MAX_NOTCHES)
            self._moved = time.monotonic()

    def due(self) -> bool:
        """Return whether the window is zoomed in and the wheel rests."""
        return self._notches > 0 and time.monotonic() >= self._moved + WHEEL_REST

    def undo(self, open_again: Callable[[], None]) -> None:
        """Close the window and let ``open_again`` open it anew, then move it to where it was."""
        before = cv2.getWindowImageRect(TITLE)
        close_window(TITLE)
        open_again()
        cv2.moveWindow(TITLE, before[0], before[1])
        cv2.waitKey(1)  # lets the window system carry it out
        after = cv2.getWindowImageRect(TITLE)
        if after[:2] != before[:2]:  # off by the window's frame, which these numbers leave out
            cv2.moveWindow(TITLE, 2 * before[0] - after[0], 2 * before[1] - after[1])
        self._notches = 0


def _windows_are_qt() -> bool:
    """Return whether Qt draws OpenCV's windows; OpenCV 4.8 tells it only in its build information."""
    if hasattr(cv2, "currentUIFramework"):
        return bool(cv2.currentUIFramework().startswith("QT"))
    return re.search(r"^ *GUI: +QT", cv2.getBuildInformation(), re.MULTILINE) is not None
