"""Calls into C that never come back: each is noted for as long as it lasts, and waiting is not."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.live.run import soon

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.sources import camera, child
from hybrid_edge.runtime.sources.blocking import BLOCKING_CALLS, open_capture
from hybrid_edge.runtime.sources.capture import open_captures
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.sources.names import CaptureOptions
from hybrid_edge.runtime.sources.stream import RtspConnection

PATIENCE = 10.0  # seconds that a busy machine may take for what takes none


class Driver:
    """In OpenCV's place: a camera whose driver hangs in one of the calls until it is let go."""

    def __init__(self, hangs_in: str = "") -> None:
        self.hangs_in = hangs_in
        self.let_go = threading.Event()
        self.reads = 0

    def __call__(self, *_: object) -> Driver:
        self._call("open")
        return self

    def grab(self) -> bool:
        self._call("grab")
        self.reads += 1
        return True

    def retrieve(self) -> tuple[bool, object]:
        return True, np.zeros((4, 6, 3), np.uint8)

    def read(self) -> tuple[bool, object]:
        return self.grab(), self.retrieve()[1]

    def release(self) -> None:
        self._call("release")

    def isOpened(self) -> bool:
        return True

    def set(self, *_: object) -> bool:
        return True

    def _call(self, name: str) -> None:
        if name == self.hangs_in:
            self.let_go.wait()


@pytest.fixture(autouse=True)
def nothing_is_left_noted() -> Iterator[None]:
    assert BLOCKING_CALLS.busy() == {}
    yield
    assert soon(lambda: BLOCKING_CALLS.busy() == {})


@pytest.mark.parametrize(
    ("hangs_in", "noted"), [("ask", "ask"), ("open", "open"), ("grab", "read"), ("release", "release")]
)
def test_a_camera_whose_driver_hangs_is_noted_with_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs_in: str, noted: str
) -> None:
    driver, node = Driver(hangs_in), tmp_path / "video0"
    node.touch()
    monkeypatch.setattr(camera, "inspect_camera", lambda _: driver._call("ask"))
    monkeypatch.setattr(camera.cv2, "VideoCapture", driver)

    def use() -> None:
        connection = camera.open_node(str(node), CaptureOptions(), threading.Event())
        assert connection.read() is not None
        connection.close()

    using = threading.Thread(target=use, daemon=True)
    using.start()
    name = f"{noted} {node}"
    assert soon(lambda: BLOCKING_CALLS.busy().get(name, 0) > 0.1)
    assert list(BLOCKING_CALLS.busy()) == [name]
    driver.let_go.set()
    using.join(PATIENCE)
    assert BLOCKING_CALLS.busy() == {}


@pytest.mark.parametrize(("hangs_in", "noted"), [("grab", "read a stream"), ("release", "release a stream")])
def test_a_stream_whose_decoder_hangs_is_noted_though_nobody_waits_for_it(hangs_in: str, noted: str) -> None:
    driver = Driver(hangs_in)
    reader = RtspConnection(driver, threading.Event(), 2)
    reader.close()
    assert soon(lambda: noted in BLOCKING_CALLS.busy())
    driver.let_go.set()


def test_a_frame_that_nobody_takes_is_no_call() -> None:
    driver = Driver()
    reader = RtspConnection(driver, threading.Event(), 2)
    assert soon(lambda: driver.reads == 1)
    assert soon(lambda: BLOCKING_CALLS.busy() == {})
    reader.close()


def test_the_wait_for_a_camera_that_is_gone_is_no_call() -> None:
    events, stop = Events(), threading.Event()
    (gone,) = open_captures(["/dev/video987"], CaptureOptions(), events)
    reading = threading.Thread(target=lambda: list(gone.frames(stop)))
    reading.start()
    assert soon(lambda: bool(events.count("lost", "/dev/video987")))
    time.sleep(0.1)
    assert BLOCKING_CALLS.busy() == {}
    stop.set()
    reading.join()
    assert events.counts() == {"lost": 1}


def test_the_wait_for_another_ones_turn_is_no_call_and_ends_without_opening_where_it_is_given_up() -> None:
    turn, stop, opened, hangs = threading.Lock(), threading.Event(), list[str](), threading.Event()
    first = threading.Thread(target=open_capture, args=(lambda: hangs.wait() and Driver(), stop, "first", turn))
    first.start()
    assert soon(lambda: "open first" in BLOCKING_CALLS.busy())

    def give_up() -> None:
        with pytest.raises(SourceError, match="stopped"):
            open_capture(lambda: opened.append("second") or Driver(), gone, "second", turn)

    gone = threading.Event()
    second = threading.Thread(target=give_up)
    second.start()
    time.sleep(0.1)
    assert list(BLOCKING_CALLS.busy()) == ["open first"]
    gone.set()
    second.join(PATIENCE)
    hangs.set()
    first.join(PATIENCE)
    with turn:
        assert opened == []


def test_of_several_calls_alike_the_longest_counts() -> None:
    with BLOCKING_CALLS.noted("read a stream"):
        time.sleep(0.1)
        with BLOCKING_CALLS.noted("read a stream"), BLOCKING_CALLS.noted("open it"):
            busy = BLOCKING_CALLS.busy()
    assert busy["read a stream"] >= 0.1
    assert busy["open it"] < 0.1


def test_a_child_that_not_even_a_sigkill_ends_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(_: str) -> tuple[subprocess.Popen[bytes], io.FileIO]:
        process = subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, bufsize=0)
        process.kill = lambda: None  # type: ignore[method-assign]  # a driver holds it
        return process, io.FileIO(os.devnull)

    monkeypatch.setattr(child, "_launch", launch)
    pipeline = child.ChildConnection("none", CaptureOptions(), threading.Event())
    begun = time.monotonic()
    pipeline.close()
    assert time.monotonic() - begun < PATIENCE
    os.kill(pipeline._process.pid, signal.SIGKILL)
    pipeline._process.wait(PATIENCE)
