from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.live import window_process
from support.live.display import Display, open_display
from support.live.results import LABELS, make_result

from hybrid_edge.runtime.canvas.pictures import ACCENT, TRACK, Bars, blank
from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.frame import Pixels
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.display import X11_LIBRARY, display_problem, keep_events, pressed_key
from hybrid_edge.runtime.outputs.sink import Result
from hybrid_edge.runtime.outputs.window import TITLE, Tile, Window
from hybrid_edge.runtime.sources.events import Event

RED, GREEN = (0, 0, 255), (0, 255, 0)


class Shown:
    def __init__(self, display: Display, folder: Path, *sources: str) -> None:
        self.display = display
        self.kept = folder / "picture.npy"
        self.command = [sys.executable, window_process.__file__, str(self.kept), *sources]
        self.environment = {**display.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(self.command, env=self.environment)

    def __enter__(self) -> Shown:
        self.display.picture_when(TITLE, lambda picture: picture.any() or self.process.poll() is not None)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


def is_color(picture: Pixels, color: tuple[int, int, int]) -> Pixels:
    return np.asarray((np.abs(picture.astype(int) - color) <= 3).all(axis=2))


def shows_red(picture: Pixels) -> bool:
    return bool(is_color(picture, RED).mean() > 0.02)


def test_a_window_shows_picture_bars_and_counts_and_q_stops(display: Display, tmp_path: Path) -> None:
    with Shown(display, tmp_path, "cam0") as shown:
        picture = display.picture_when(TITLE, shows_red)
        for key in ("x", "Left"):  # no key of ours, though the lowest byte of the arrow's code is Q
            display.key(TITLE, key)
        time.sleep(0.3)
        assert shown.process.poll() is None
        display.key(TITLE, "q")
        assert shown.process.wait(20) == 0
    drawn = np.load(shown.kept)
    assert picture.shape == drawn.shape  # nothing is scaled: text stays sharp
    # the frame's number at the top has changed in between, and nothing else
    assert np.abs(picture[40:].astype(int) - drawn[40:]).max() <= 3
    bar = is_color(picture, ACCENT)
    line = int(bar.sum(axis=1).argmax())
    filled, track = bar[line].sum(), is_color(picture, TRACK)[line].sum()
    assert filled / (filled + track) == pytest.approx(0.75, abs=0.01)
    assert is_color(picture, RED).mean() > 0.3  # most of the window is the picture


def test_escape_and_the_close_button_stop_too_and_two_sources_have_two_places(display: Display, tmp_path: Path) -> None:
    for stop in (lambda: display.key(TITLE, "Escape"), lambda: display.ask_to_close(TITLE)):
        with Shown(display, tmp_path, "cam0", "cam1") as shown:
            picture = display.picture_when(TITLE, shows_red)
            stop()
            assert shown.process.wait(20) == 0
        half = picture.shape[1] // 2
        assert is_color(picture[:, :half], RED).mean() > 0.1
        assert is_color(picture[:, half:], GREEN).mean() > 0.1
        assert not is_color(picture[:, half:], RED).any()
        assert not is_color(picture[:, :half], GREEN).any()


def test_a_window_of_gtk_stays_open_and_closing_it_stops(display: Display, tmp_path: Path) -> None:
    with Shown(display, tmp_path, "gtk", "cam0") as shown:
        display.picture_when(TITLE, shows_red)
        time.sleep(0.3)
        assert shown.process.poll() is None
        display.ask_to_close(TITLE)
        assert shown.process.wait(20) == 0


@pytest.mark.parametrize(
    ("code", "key"),
    [
        (-1, ""),
        (ord("q"), "q"),
        (1 << 16 | ord("Q"), "q"),  # GTK, with Shift
        (1 << 20 | ord("q"), "q"),  # with Num Lock
        (1 << 17 | 27, "\x1b"),  # with Caps Lock
        (1 << 20 | 0xFF51, ""),  # the left arrow
        (0x250000, ""),  # Windows' left arrow
    ],
)
def test_keys_of_other_systems_windows(monkeypatch: pytest.MonkeyPatch, code: int, key: str) -> None:
    monkeypatch.setattr(cv2, "waitKeyEx", lambda _: code)
    assert pressed_key(1) == key


def test_a_display_that_is_there_and_one_that_is_not(display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display.name)
    assert display_problem() is None
    monkeypatch.setenv("DISPLAY", ":9876")  # Qt would end the process here
    assert display_problem() is not None
    with pytest.raises(UsageError, match=r"DISPLAY=:9876: expected a display, found none .*--headless"):
        Window(LABELS)


def test_without_a_display_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert "neither DISPLAY nor WAYLAND_DISPLAY is set" in str(display_problem())


def draw(tile: Tile, width: int = 640, height: int = 480, size: int = 14) -> Pixels:
    picture = blank(width, height)
    tile.draw(picture, size)
    return picture


def make_tile(*results: Result) -> Tile:
    tile = Tile("cam0", Bars(LABELS), 5)
    for result in results:
        tile.take(result)
    return tile


def is_live(tile: Tile) -> bool:
    """Whether a tile has a picture in its colours and labels; it must have both or neither."""
    picture = draw(tile)
    live = bool(is_color(picture, ACCENT).any())
    assert is_color(picture, RED).any() == live
    return live


def test_a_stalled_source_is_not_shown_as_live() -> None:
    tile = make_tile(make_result())
    assert is_color(draw(tile), RED).mean() > 0.2
    assert is_live(tile)
    tile.trouble(Event("stalled", "cam0", "no frame for 1.5 s", time.time()))
    assert not is_live(tile)
    tile.take(make_result(index=1))
    assert is_live(tile)


def test_a_silent_source_is_not_shown_as_live_though_nobody_reported_it() -> None:
    tile = make_tile(make_result())
    tile.seen -= 1.5
    assert is_live(tile)
    tile.seen -= 1.0
    assert not is_live(tile)


def test_a_slow_engine_is_not_called_silent() -> None:
    tile = make_tile()
    for index in range(12):
        tile.take(make_result(index=index))
        tile.seen -= 3  # a frame every three seconds
    assert is_live(tile)
    tile.seen -= 12
    assert not is_live(tile)


def test_an_unreadable_frame_has_no_label_and_before_the_first_one_there_is_a_notice() -> None:
    assert not is_live(make_tile(make_result(), make_result(index=1, error="the decoder gave up")))
    assert not is_live(make_tile())
    assert (draw(make_tile()) > 200).any()  # its text


def test_what_the_model_saw_lies_in_a_corner_and_a_page_without_ink_is_shown_as_the_newest_picture() -> None:
    white = np.full((28, 28, 3), 255, np.uint8)
    assert np.array_equal(draw(make_tile(make_result(seen=white)))[45:65, 590:620], np.full((20, 30, 3), 255))
    page = make_result(index=1, color=(255, 255, 255))
    blank_page = replace(page, prediction=None, frame=replace(page.frame, error="no ink found: expected strokes"))
    tile = make_tile(make_result(), blank_page)
    assert not is_live(tile)
    assert (draw(tile)[60, 320] == 255 * 0.35 // 1).all()  # a part of its light


@pytest.mark.parametrize(("width", "height"), [(60, 50), (300, 240), (1280, 760)])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (4000, 30), (30, 3000), (1920, 1080)])
def test_any_picture_fits_any_place(width: int, height: int, size: tuple[int, int]) -> None:
    assert is_color(draw(make_tile(make_result(size=size)), width, height, 12), RED).any()


SYMBOL = "XSetEventQueueOwner"
WHEEL = Path(cv2.__file__).resolve().parents[1] / "opencv_python.libs"
PROGRAM = """
import cv2
from hybrid_edge.runtime.outputs.display import require_display
require_display("no window")
cv2.namedWindow("one")
cv2.waitKey(1)
"""


def owner(display: Display, folder: Path, program: str) -> Path:
    """Which library a program's Qt takes the function from that says who reads events."""
    environment = {**display.environment, "LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(folder / "bindings")}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment)
    assert child.wait(60) == 0
    text = (folder / f"bindings.{child.pid}").read_text(errors="replace")
    found = re.findall(rf"binding file \S*libQt5XcbQpa\S* \[0\] to (\S+) \[0\]: normal symbol `{SYMBOL}'", text)
    assert len(found) == 1, found
    return Path(found[0])


@pytest.mark.skipif(not WHEEL.is_dir(), reason="OpenCV is not pip's wheel here, which brings a libX11-xcb of its own")
def test_qt_asks_the_installed_library_which_fits_the_installed_xlib(tmp_path: Path) -> None:
    if not keep_events():
        pytest.skip(f"{X11_LIBRARY} is not installed here (apt install libx11-xcb1)")
    with open_display() as display:
        ours = owner(display, tmp_path, PROGRAM)
        without = owner(display, tmp_path, PROGRAM.replace('require_display("no window")', ""))
    assert ours.name == X11_LIBRARY
    if without.name == X11_LIBRARY:
        pytest.skip("this wheel takes the installed library by itself")
    assert without.parent.resolve() == WHEEL


def test_it_is_harmless_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.outputs.display.X11_LIBRARY", "libno-such-library.so.1")
    assert not keep_events()
