"""hybrid-draw as a process with a real window under Xvfb, driven by mouse and keys."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.data.drawings import Drawing
from support.live.display import Display, open_display

from hybrid_edge.runtime.canvas.pictures import ACCENT, BACKGROUND, TRACK
from hybrid_edge.runtime.canvas.text import Pixels

TITLE = "hybrid-draw"
PATIENCE = 60.0
COMMAND = [sys.executable, "-m", "hybrid_edge.runtime.commands.draw"]
WHEEL_UP, WHEEL_DOWN = "4", "5"
ONE, NOUGHT, SEVEN = 4, 0, 28  # drawings that the linear reader gets right


@pytest.fixture(scope="module")
def display() -> Iterator[Display]:
    with open_display() as opened:
        yield opened


class Drawn:
    """A running hybrid-draw, its mouse and its output."""

    def __init__(self, display: Display, folder: Path, *arguments: object, said: Path | None = None) -> None:
        self.display = display
        self.said = said or folder / "stdout.txt"
        self.errors = folder / "stderr.txt"
        self.command = [*COMMAND, *map(str, arguments)]
        self.folder = folder
        self.start()

    def start(self) -> None:
        with self.said.open("w") as out, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                self.command, env=self.display.environment, cwd=self.folder, stdout=out, stderr=errors
            )

    def __enter__(self) -> Drawn:
        until = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < until:
            if tuple(self.display.picture(TITLE)[20, 20]) == BACKGROUND:  # it is painted once the mouse is heard
                return self
            time.sleep(0.05)
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
        """Press a key that ends it; the exit code."""
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

    def answers_when(self, *, accent: bool) -> None:
        """Wait until the answers' bars are there, coloured or gray."""
        until = time.monotonic() + PATIENCE
        while True:
            panel = self.display.picture(TITLE)[:, 600:]
            if (panel == TRACK).all(axis=2).any() and (panel == ACCENT).all(axis=2).any() == accent:
                return
            assert time.monotonic() < until
            time.sleep(0.05)

    def canvas_when(self, ink: bool, rows: slice = slice(None)) -> Pixels:
        """The canvas, once there is ink on these of its rows, or none."""
        until = time.monotonic() + PATIENCE
        while True:
            canvas = self.display.picture(TITLE)[100:500, 100:500]
            if (canvas[rows].min(axis=2) > 200).any() == ink:
                return canvas
            assert time.monotonic() < until
            time.sleep(0.05)


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


def test_answers_turn_gray_when_the_drawing_goes_on_and_when_it_is_erased(
    display: Display, reader: Path, drawings: list[Drawing], tmp_path: Path
) -> None:
    with Drawn(display, tmp_path, reader, "--thickness", "61", "--threads", "1") as window:
        display.drag(TITLE, (300, 200), (300, 400))
        window.key("p")
        window.answers_when(accent=True)
        window.mouse("150", "300", "click", "3")  # the eraser, where there is nothing
        window.key("s")
        window.answers_when(accent=True)
        display.drag(TITLE, (200, 450), (400, 450))
        window.answers_when(accent=False)
        window.key("S")
        window.answers_when(accent=False)
        window.key("p")
        window.answers_when(accent=True)
        for y in ("200", "300", "400", "450"):
            window.mouse("180", y, "mousedown", "3", "mousemove_relative", "240", "0", "mouseup", "3")
        window.canvas_when(ink=False)
        window.answers_when(accent=False)
        assert window.quit("q") == 0


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
