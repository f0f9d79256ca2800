"""Reads a live source as the pipeline does, and measures: frames, their ages, each wait, and what leaks."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_edge.runtime.frame import Frame
from hybrid_edge.runtime.sources.capture import Connection, LiveCapture, Opener, opener
from hybrid_edge.runtime.sources.events import Event, Events, Kind
from hybrid_edge.runtime.sources.names import CaptureOptions, parse_live
from support.live.run import soon
from support.streams.servers import Stream, age_ms, stamp

BACK = 5  # seconds within which frames have to flow again

Image = npt.NDArray[np.uint8]


def resources() -> tuple[int, int, int]:
    """Threads, file descriptors and children of this process."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    return threads, len(list(Path("/proc/self/fd").iterdir())), len(children())


def children() -> set[int]:
    """The processes that this one started and that are there."""
    found = set[int]()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found |= {int(number) for number in (task / "children").read_text().split()}
    return found


def settled(before: tuple[int, int, int], seconds: float = 10) -> tuple[int, int, int]:
    """``resources``, once they are no more than before: ends of connections need a moment to be noticed."""
    soon(lambda: all(now <= then for now, then in zip(resources(), before, strict=True)), seconds)
    return resources()


class Reading:
    """Reads a live source on a thread of its own, as the pipeline does, and keeps count; a context manager.

    Attributes:
        frames: how many came, readable or not.
        damaged: how many of them have an error.
        last: the newest readable one.
        ages: of the newest thousand readable ones, milliseconds, if the stream is one of this file's.
        moments: when these came, ``time.monotonic()`` seconds.
        made: when these were made, likewise.
        waits: how long each read of the connection took, the newest thousand, seconds.
        told: the events so far.
    """

    def __init__(self, url: str, options: CaptureOptions = CaptureOptions()) -> None:  # noqa: B008 - frozen
        live = parse_live(url)
        self.frames = self.damaged = 0
        self.last: Frame | None = None
        self.ages: deque[float] = deque(maxlen=1000)
        self.moments: deque[float] = deque(maxlen=1000)
        self.made: deque[float] = deque(maxlen=1000)
        self.waits: deque[float] = deque(maxlen=1000)
        self.told: list[Event] = []
        self.events = Events(self.told.append)
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._news = threading.Condition()
        self.capture = LiveCapture(live.display, self._timed(opener(live, options)), self.events)
        self._thread = threading.Thread(target=self._run, name="reading")
        self._thread.start()

    def wait(self, frames: int = 5, seconds: float = 20) -> float:
        """Wait for so many more readable frames; returns when the first of them came, ``time.monotonic()`` seconds."""
        start, before = time.monotonic(), self.frames - self.damaged
        while self.frames - self.damaged < before + frames:
            assert self._thread.is_alive(), self.error
            assert time.monotonic() < start + seconds, (self.frames - self.damaged - before, self.told)
            time.sleep(0.005)
        return next(moment for moment in self.moments if moment > start)

    def fresh(self, since: float, seconds: float = 30) -> float:
        """Wait for a frame that was made after a moment, not late; returns when it came, infinity if none did."""

        def came() -> float | None:
            assert self._thread.is_alive(), self.error
            pairs = zip(self.moments, self.made, strict=True)
            return next((moment for moment, made in pairs if since < made <= moment), None)

        with self._news:
            return self._news.wait_for(came, seconds) or math.inf

    def wait_for(self, kind: Kind, seconds: float = 20, count: int = 1) -> None:
        """Wait until an event was reported so often."""
        deadline = time.monotonic() + seconds
        while self.events.count(kind) < count:
            assert time.monotonic() < deadline, (kind, self.told)
            time.sleep(0.005)

    def end(self) -> float:
        """Stop; returns how long that took, seconds."""
        start = time.monotonic()
        self.stop.set()
        self._thread.join()
        assert self.error is None, self.error
        return time.monotonic() - start

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for frame in self.capture.frames(self.stop):
                self._take(frame)
        except BaseException as error:
            self.error = error

    def _take(self, frame: Frame) -> None:
        with self._news:
            if frame.image is None:
                self.damaged += 1
            else:
                self.last = frame
                self.moments.append(frame.captured)
                self.ages.append(age_ms(frame.image))
                self.made.append(stamp(frame.image))
            self.frames += 1
            self._news.notify_all()

    def _timed(self, opens: Opener) -> Opener:
        def open_timed(stop: threading.Event) -> Connection:
            return _Timed(opens(stop), self.waits)

        return open_timed


def lose_and_find_again(reading: Reading, stream: Stream, losses: int) -> None:
    """Kill the stream and black-hole it: each is said, and frames flow soon after it is back.

    Args:
        reading: reads the stream.
        stream: that is there.
        losses: how often it has been said to have stalled when the black hole has been noticed.
    """
    stream.kill()
    reading.wait_for("lost")
    time.sleep(0.3)
    stream.restart()
    restarted = time.monotonic()
    assert reading.wait() < restarted + BACK

    stream.black_hole()
    reading.wait_for("stalled", count=losses)
    time.sleep(0.3)
    stream.restore()
    restored = time.monotonic()
    assert reading.wait() < restored + BACK


class _Timed:
    def __init__(self, connection: Connection, waits: deque[float]) -> None:
        self.close = connection.close
        self._connection = connection
        self._waits = waits

    @property
    def patience(self) -> float:
        return self._connection.patience

    def read(self) -> Image | None:
        start = time.monotonic()
        try:
            return self._connection.read()
        finally:
            self._waits.append(time.monotonic() - start)
