"""Do what all live sources share: give frames while they flow, report when they don't, and connect again."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, SourceError
from ..frame import Frame
from .events import Events, Kind
from .names import display_name

__all__ = ["READ_WAIT", "Connection", "LiveCapture", "Opener"]

UNEXPECTED = (OSError, ValueError, RuntimeError)  # errors that are the loss of the one source they come from
READ_WAIT = 1.0  # seconds that one read waits at most; a stop is noticed by then
FIRST_DELAY = 0.5  # seconds before the first try to come back, doubling
LAST_DELAY = 3.0
LONG = 2.0  # seconds: a try that took so long has waited already
JITTER = 0.3  # share of a delay taken off at random, so that cameras lost together are not tried in step
SIGNAL_LAG = 0.2
STEADY = 3.0  # seconds of frames after which delays start small again

Image = npt.NDArray[np.uint8]


class Connection(Protocol):
    """This protocol is what every open camera or stream offers."""

    @property
    def patience(self) -> float:
        """The seconds without a frame after which it is given up, asked each time; 0: at the first empty read."""

    def read(self) -> Image | None:
        """Return the next frame, (H, W, 3) uint8 BGR; None if none came for about ``READ_WAIT``, or on a stop.

        Raises:
            ImageError: a frame came that can't be decoded; the next may be good.
            SourceError: the stream ended.
        """

    def close(self) -> None:
        """Release the connection's resources, without waiting for the other side."""


Opener = Callable[[threading.Event], Connection]


class LiveCapture:
    """This capture gives a camera's or stream's frames until it is stopped, and connects again after every loss.

    Attributes:
        name: the source as the user named it, passwords masked.
        live: True, as frames are lost when nobody takes them.
    """

    live = True

    def __init__(self, name: str, opener: Opener, events: Events) -> None:
        self.name = name
        self._opener = opener
        self._events = events
        self._index = 0
        self._size: tuple[int, int] | None = None
        self._last = time.monotonic()  # when the last good frame came, or when it all began
        self._reported: set[tuple[Kind, str]] = set()  # what was reported of this outage; empty while frames flow

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield frames until ``stop`` is set, and at most 1.5 s longer; may be called once.

        A frame that can't be decoded is yielded with an ``error``. Losses, stalls, returns, damaged frames and
        changed resolutions go to the events.
        """
        self._last = time.monotonic()
        delay = FIRST_DELAY
        while not stop.is_set():
            started, before = time.monotonic(), self._index
            try:
                with self._connected(stop) as connection:
                    yield from self._flow(connection, stop)
            except SourceError as error:
                # Ctrl-C reaches a child process before this one: then its end is no loss, but the end of the run
                if stop.wait(SIGNAL_LAG):
                    return
                self._down("lost", str(error))
            if self._index > before:  # frames came, so the delay counts from the loss
                delay = FIRST_DELAY if time.monotonic() - started > STEADY else delay
                started = time.monotonic()
            pause = delay * (1 - JITTER * random.random())  # noqa: S311 - no secret
            taken = time.monotonic() - started
            stop.wait(0 if taken >= LONG else max(pause - taken, 0))
            delay = min(2 * delay, LAST_DELAY)

    @contextmanager
    def _connected(self, stop: threading.Event) -> Iterator[Connection]:
        with _guarded():
            connection = self._opener(stop)
        try:
            yield connection
        finally:
            with suppress(*UNEXPECTED):  # it is given up in any case
                connection.close()

    def _flow(self, connection: Connection, stop: threading.Event) -> Iterator[Frame]:
        """Yield one connection's frames until it stalls, or ends with a SourceError."""
        since = time.monotonic()
        while not stop.is_set():
            frame = self._read(connection)
            if frame is not None:
                yield frame
                since = time.monotonic()  # whoever took the frame may have kept it for long
            elif time.monotonic() - since >= connection.patience and not stop.is_set():
                self._down("stalled", f"no frame for {time.monotonic() - since:.1f} s")
                return

    def _read(self, connection: Connection) -> Frame | None:
        try:
            with _guarded():
                image = connection.read()
        except ImageError as error:
            return self._damaged("corrupt", str(error))
        except MemoryError:
            return self._damaged("memory-short", "not enough memory for a frame")
        if image is None:
            return None
        self._good(image)
        return self._frame(image)

    def _frame(self, image: Image | None, error: str | None = None) -> Frame:
        self._index += 1
        return Frame(self.name, self._index - 1, image, error, True, time.monotonic(), time.time())

    def _damaged(self, kind: Kind, reason: str) -> Frame:
        self._events.report(kind, self.name, reason)
        return self._frame(None, reason)

    def _good(self, image: Image) -> None:
        """Report what a good frame shows: that the source is back, or that its resolution has changed."""
        now = time.monotonic()
        if self._reported:
            self._reported.clear()
            self._events.report("reconnected", self.name, "frames flow again", seconds=now - self._last)
        self._last = now
        size = (image.shape[1], image.shape[0])
        if self._size not in (None, size):
            self._events.report("resized", self.name, f"from {self._size[0]}x{self._size[1]} to {size[0]}x{size[1]}")
        self._size = size

    def _down(self, kind: Kind, detail: str) -> None:
        """Report an outage once for each reason: a camera that is gone for a day is tried 30,000 times."""
        reason = (kind, re.sub(r"\d+", "", detail))
        if reason not in self._reported:
            self._reported.add(reason)
            self._events.report(kind, self.name, display_name(detail))


@contextmanager
def _guarded() -> Iterator[None]:
    """Turn an error that nobody foresaw into the loss of its source."""
    try:
        yield
    except UNEXPECTED as error:
        raise SourceError(f"an error that was not expected: {type(error).__name__}: {error}") from error
