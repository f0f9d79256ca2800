from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from support.data.drawings import Drawing
from support.live.display import PATIENCE, Display

from hybrid_edge.runtime.canvas.pictures import BACKGROUND
from hybrid_edge.runtime.classifier import Prediction
from hybrid_edge.runtime.draw import draw_window as window
from hybrid_edge.runtime.draw.page import View
from hybrid_edge.runtime.draw.readers import Reading
from hybrid_edge.runtime.frame import Pixels

TITLE = "hybrid-draw"
COMMAND = [sys.executable, "-m", "hybrid_edge.runtime.commands.draw"]
WHEEL_UP, WHEEL_DOWN = "4", "5"
ONE, NOUGHT, SEVEN = 4, 0, 28  # drawings that the linear reader gets right


class Drawn:
    def __init__(self, display: Display, folder: Path, *arguments: object, said: Path | None = None) -> None:
        self.display = display
        self.said = said or folder / "stdout.txt"
        self.errors = folder / "stderr.txt"
        command = [*COMMAND, *map(str, arguments)]
        with self.said.open("w") as out, self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, env=display.environment, cwd=folder, stdout=out, stderr=errors)

    def __enter__(self) -> Drawn:
        # it is painted once the mouse is heard
        painted = self.display.picture_when(
            TITLE, lambda picture: self.process.poll() is not None or tuple(picture[20, 20]) == BACKGROUND
        )
        if tuple(painted[20, 20]) == BACKGROUND:
            return self
        self.__exit__()
        raise AssertionError(f"the window stays empty, exit {self.process.returncode}: {self.errors.read_text()}")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def draw(self, drawing: Drawing, size: int, place: tuple[int, int]) -> None:
        for line in drawing.points(size, (100 + place[0], 100 + place[1])):
            self.display.drag(TITLE, *line[::4], line[-1])

    def mouse(self, *words: str) -> None:
        command = ["xdotool", "mousemove", "--window", self.display.window(TITLE), *words]
        subprocess.run(command, env=self.display.environment, check=True, timeout=60)

    def key(self, key: str) -> None:
        self.display.key(TITLE, key)

    def quit(self, key: str) -> int:
        window = self.display.window(TITLE)
        # xdotool fails where the window is gone before it lets the key go, and X repeats it into the next window
        for command in (["key", "--window", window, key], ["keyup", key]):
            subprocess.run(["xdotool", *command], env=self.display.environment, check=False, timeout=60)
        return self.process.wait(PATIENCE)

    def lines(self, count: int) -> list[str]:
        """What was printed, once it is so many lines."""
        until = time.monotonic() + PATIENCE
        while len(found := self.said.read_text().splitlines()) < count and time.monotonic() < until:
            time.sleep(0.05)
        assert len(found) == count, (found, self.errors.read_text())
        return found

    def canvas_when(self, ink: bool, rows: slice = slice(None)) -> Pixels:
        """The canvas, once there is ink on these of its rows, or none."""
        where = np.s_[100:500, 100:500]
        painted = self.display.picture_when(TITLE, lambda seen: (seen[where][rows].min(axis=2) > 200).any() == ink)
        return painted[where]


def test_a_one_a_nought_and_a_seven_are_read_printed_saved_and_the_keys_work_in_either_case(
    display: Display, reader: Path, drawings: list[Drawing], tmp_path: Path
) -> None:
    with Drawn(display, tmp_path, reader, "--threads", "1") as window:
        window.draw(drawings[ONE], 85, (20, 20))
        window.key("P")
        assert window.lines(1)[0].startswith("cnn: 1 (4")  # under one half: an answer all the same
        window.canvas_when(ink=True)
        for key in ("Home", "Right", "Insert", "Left"):  # the lowest bytes of their codes are P, S, c and Q
            window.key(key)
        window.key("P")
        assert window.lines(2)[1].startswith("cnn: 1 (4")
        window.key("c")
        window.canvas_when(ink=False)
        window.key("p")  # nothing to read: nothing is printed
        window.draw(drawings[NOUGHT], 170, (280, 200))
        window.key("p")
        assert window.lines(3)[2].startswith("cnn: 0 (")
        window.key("C")
        window.canvas_when(ink=False)
        window.draw(drawings[SEVEN], 300, (60, 50))
        window.key("p")
        assert window.lines(4)[3].startswith("cnn: 7 (")
        window.key("S")
        picture = display.picture(TITLE)
        assert window.quit("Q") == 0
    assert picture.shape == (600, 940, 3)
    assert len(list(tmp_path.glob("drawing-*.png"))) == 2
    assert "saved drawing-" in window.errors.read_text()


def test_live_answers_come_with_each_stroke_the_right_button_erases_and_the_close_button_ends(
    display: Display, reader: Path, tmp_path: Path
) -> None:
    with Drawn(display, tmp_path, reader, reader, "--json", "--thickness", "9", "--threads", "1") as window:
        window.key("l")
        display.drag(TITLE, (300, 150), (300, 450))
        answers = json.loads(window.lines(1)[0])["answers"]
        assert [answer["model"][:2] for answer in answers] == ["1:", "2:"]
        assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)
        assert answers[0]["label"] == max(answers[0]["probabilities"], key=answers[0]["probabilities"].get)
        row = window.canvas_when(ink=True)[200]
        assert (row.min(axis=1) > 127).sum() in (9, 10, 11)
        window.mouse("250", "300", "mousedown", "3", "mousemove_relative", "100", "0", "mouseup", "3")
        window.lines(2)
        assert not (window.canvas_when(ink=True)[195:205].min(axis=2) > 127).any()
        display.ask_to_close(TITLE)
        assert window.process.wait(PATIENCE) == 0


def test_an_error_at_the_end_of_a_live_stroke_ends_the_command(display: Display, reader: Path, tmp_path: Path) -> None:
    with Drawn(display, tmp_path, reader, "--live", "--threads", "1", said=Path("/dev/full")) as window:
        display.drag(TITLE, (300, 150), (300, 450))
        assert window.process.wait(PATIENCE) == 1
    assert "expected room on the disk" in window.errors.read_text()


def test_wheel_and_keys_change_the_thickness_the_picture_stays_unzoomed_and_escape_ends(
    display: Display, reader: Path, tmp_path: Path
) -> None:
    with Drawn(display, tmp_path, reader, "--threads", "1") as window:
        before, first = display.picture(TITLE), display.window(TITLE)
        window.mouse("300", "300", "click", WHEEL_UP, "click", WHEEL_UP, "click", WHEEL_UP, "click", WHEEL_DOWN)
        window.key("minus")
        until = time.monotonic() + PATIENCE  # Qt zooms; the window is opened again once the wheel rests
        # a picture of the first one proves nothing before the wheel is heard, and never comes when it goes meanwhile
        while display.window(TITLE) == first or not np.array_equal(display.picture(TITLE)[:, 600:], before[:, 600:]):
            assert time.monotonic() < until, "the window stays zoomed in"
            time.sleep(0.1)
        display.drag(TITLE, (200, 150), (200, 450))
        drawn = window.canvas_when(ink=True, rows=slice(345, 350))  # the last of the drag
        widths = (drawn[100:300].min(axis=2) > 127).sum(axis=1)
        assert set(widths.tolist()) <= {17, 18, 19}  # 15, thrice thicker, twice thinner, by two pixels each
        assert window.quit("Escape") == 0


def test_without_a_display_one_line_says_so(display: Display, reader: Path) -> None:
    for name in (None, ":9999"):
        environment = {key: value for key, value in display.environment.items() if key != "DISPLAY"}
        environment |= {"DISPLAY": name} if name else {}
        done = subprocess.run([*COMMAND, reader], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "display" in done.stderr
        assert not done.stdout


TURN = 0.01  # seconds
PREDICTION = Prediction(("0", "1"), np.float32([0.2, 0.8]), np.float32([0, 1]), 0.1, 0.1)

Step = Callable[["Stage"], str]


class Stage:
    """A window without a window system.

    Attributes:
        now: the time, seconds; a turn takes ten milliseconds and a prediction ``duration``.
        views: what was shown after each step.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, duration: float) -> None:
        self.now, self.duration = 100.0, duration
        self.views: list[View] = []
        self._view: View | None = None
        self._steps: list[Step] = []
        for name in ("namedWindow", "imshow", "destroyWindow", "waitKey"):
            monkeypatch.setattr(cv2, name, lambda *_: None)
        monkeypatch.setattr(cv2, "setMouseCallback", lambda _, mouse: setattr(self, "_mouse", mouse))
        patched: dict[str, Any] = {
            "is_visible": lambda _: True,
            "pressed_key": self._key,
            "close_window": lambda _: None,
            "read_drawing": self._answers,
            "draw_page": self._draw,
            "time": SimpleNamespace(monotonic=lambda: self.now),
        }
        for name, new in patched.items():
            monkeypatch.setattr(window, name, new)

    def play(self, *steps: Step, live: bool = False) -> list[str]:
        """After each step: nothing, ``full`` or ``gray``."""
        self._steps = [*steps, lambda _: "q"]
        model: Any = SimpleNamespace(name="cnn", variant="fp32-cpu")
        window.DrawWindow([model], lambda _: None, live=live).run()
        return [("gray" if view.outdated else "full") if view.readings else "" for view in self.views[1:]]

    def mouse(self, event: int, x: int, y: int) -> None:
        """A point of the canvas."""
        self._mouse(event, 100 + x, 100 + y, 0, None)

    def _key(self, _: int) -> str:
        if self._view is not None:
            self.views.append(self._view)
        self.now += TURN
        return self._steps.pop(0)(self)

    def _answers(self, _: Sequence[object], __: Pixels) -> list[Reading]:
        self.now += self.duration
        return [Reading("cnn", "fp32-cpu", PREDICTION)]

    def _draw(self, view: View) -> None:
        self._view = view


def stroke(x: int, *, erase: bool = False) -> Step:
    """Down the whole canvas; the mouse button stays down."""
    press = cv2.EVENT_RBUTTONDOWN if erase else cv2.EVENT_LBUTTONDOWN
    return mouse((press, x, 20), (cv2.EVENT_MOUSEMOVE, x, 380))


def move(x: int) -> Step:
    return mouse((cv2.EVENT_MOUSEMOVE, x, 200))


def mouse(*events: tuple[int, int, int]) -> Step:
    def step(stage: Stage) -> str:
        for event in events:
            stage.mouse(*event)
        return ""

    return step


def wait(seconds: float) -> Step:
    def step(stage: Stage) -> str:
        stage.now += seconds
        return ""

    return step


def key(name: str) -> Step:
    return lambda _: name


def test_asked_answers_are_gray_as_soon_as_the_drawing_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, 0.01)
    shown = stage.play(stroke(100), key("p"), wait(9), stroke(300), wait(9), key("p"), key("c"))
    assert shown == ["", "full", "full", "gray", "gray", "full", ""]


def test_the_eraser_on_blank_paper_outdates_nothing_and_on_the_last_ink_all(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Stage(monkeypatch, 0.01).play(stroke(100), key("p"), stroke(300, erase=True), stroke(100, erase=True))
    assert shown == ["", "full", "full", "gray"]


def test_live_answers_of_a_quick_model_never_turn_gray(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Stage(monkeypatch, 0.03).play(stroke(10), wait(9), *map(move, range(20, 390, 4)), wait(9), live=True)
    assert set(shown) == {"full"}


def test_live_answers_of_a_slow_model_stay_for_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, 1.0)  # it is asked again two seconds later
    shown = stage.play(stroke(10), wait(0.3), move(100), wait(0.4), move(200), wait(2), live=True)
    assert shown == ["full", "full", "full", "gray", "gray", "full"]


def test_answers_are_gray_once_live_mode_is_left_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Stage(monkeypatch, 0.1).play(stroke(10), move(100), key("l"), live=True)
    assert shown == ["full", "full", "gray"]
