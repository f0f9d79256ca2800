"""Reading on another thread: every wait ends, damage is told from the end, nothing is read ahead of who takes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from hybrid_edge.runtime.errors import ImageError, SourceError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.sources.reader import ENDED, LAST, Reader

FRAME = np.zeros((4, 6, 3), np.uint8)


class Scripted:
    """A capture whose reads are given: a frame, None for a read without one, an exception, or an event to wait for."""

    def __init__(self, script: Sequence[object]) -> None:
        self._script: Iterator[object] = iter(script)
        self.reads = 0
        self.released = threading.Event()

    def read(self) -> tuple[bool, object]:
        self.reads += 1
        step = next(self._script, None)
        if isinstance(step, threading.Event):
            step.wait()
            return False, None
        if isinstance(step, Exception):
            raise step
        return step is not None, step

    def release(self) -> None:
        self.released.set()


def reader(*script: object, stop: threading.Event | None = None) -> tuple[Reader, Scripted]:
    capture = Scripted(script)
    return Reader(capture, stop or threading.Event()), capture


def test_damage_costs_what_is_damaged_and_the_end_is_said_once() -> None:
    reading, capture = reader(FRAME, None, FRAME, cv2.error("bits"), MemoryError(), FRAME)
    assert reading.next(5) is not None
    with pytest.raises(ImageError, match=r"1 damaged frame$"):
        reading.next(5)
    assert reading.next(5) is not None
    with pytest.raises(ImageError, match="the video decoder failed"):
        reading.next(5)
    with pytest.raises(MemoryError):
        reading.next(5)
    assert reading.next(5) is not None
    with pytest.raises(SourceError, match="the server ended the stream"):
        reading.next(5)
    assert reading.next(0.05) is None
    reading.close()
    assert capture.released.wait(5)
    assert capture.reads == 6 + ENDED


def test_a_read_that_hangs_keeps_nobody_waiting_and_gives_the_capture_back_in_the_end() -> None:
    hangs = threading.Event()
    reading, capture = reader(FRAME, hangs)
    assert reading.next(5) is not None
    start = time.monotonic()
    assert reading.next(0.2) is None
    reading.close()
    assert time.monotonic() - start < 0.2 + LAST + 1
    assert not capture.released.is_set()
    hangs.set()
    assert capture.released.wait(5)
    assert capture.reads == 2


def test_a_stop_ends_the_wait() -> None:
    stop, hangs = threading.Event(), threading.Event()
    reading, capture = reader(hangs, stop=stop)
    threading.Timer(0.1, stop.set).start()
    start = time.monotonic()
    assert reading.next(30) is None
    assert time.monotonic() - start < 5
    hangs.set()
    reading.close()
    assert capture.released.wait(5)


def test_one_frame_is_read_ahead_and_no_more() -> None:
    reading, capture = reader(*[FRAME] * 10)
    time.sleep(0.1)
    assert capture.reads == 1
    reading.next(5)
    time.sleep(0.1)
    assert capture.reads == 2
    reading.close()
    assert capture.released.wait(5)
