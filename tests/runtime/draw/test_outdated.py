"""Which answers the window shows in gray, turn by turn, on a clock of the test's own and without a display."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from hybrid_edge.runtime.canvas.text import Pixels
from hybrid_edge.runtime.classifier import Prediction
from hybrid_edge.runtime.draw import draw_window as window
from hybrid_edge.runtime.draw.page import View
from hybrid_edge.runtime.draw.readers import Reading

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

    def step(stage: Stage) -> str:
        stage.mouse(press, x, 20)
        stage.mouse(cv2.EVENT_MOUSEMOVE, x, 380)
        return ""

    return step


def move(x: int) -> Step:
    def step(stage: Stage) -> str:
        stage.mouse(cv2.EVENT_MOUSEMOVE, x, 200)
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
