"""Make of each source that was named a capture, which gives frames: files to their end, live sources until a stop.

A live source's capture reports when frames stop to flow, and connects again.
"""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..errors import ImageError, SourceError
from ..frame import Frame, Pixels
from .events import MAX_FAULTS, MAX_PARTS, Events, FloodLimit, Kind
from .files import Sources, check_names, open_sources
from .names import CaptureOptions, LiveName, display_name, parse_live

MAX_FRAME_GAP = 10.0  # seconds between two frames of a played video: more means that its clock jumped
UNEXPECTED = (OSError, ValueError, RuntimeError)  # errors that are the loss of the one source they come from
FIRST_DELAY = 0.5  # seconds before the first try to come back, doubling
MAX_DELAY = 3.0
LONG_TRY = 1.9  # seconds: a try that took so long has waited already
JITTER = 0.3  # share of a delay taken off at random, so that cameras lost together are not tried in step
SIGNAL_LAG = 0.2  # seconds by which Ctrl-C may reach a child process before this one
STEADY_FLOW = 3.0  # seconds of frames after which delays start small again


class Connection(Protocol):
    """This protocol is what every open camera or stream offers."""

    @property
    def patience(self) -> float:
        """The seconds without a frame after which it is given up; asked each time."""

    def read(self) -> Pixels | None:
        """Return the next frame, (H, W, 3) uint8 BGR; None if none came for ``patience`` or less, or on a stop.

        Raises:
            ImageError, MemoryError: a frame came that can't be decoded or held; the next may be good.
            SourceError: the stream ended, or the camera is gone.
        """

    def close(self) -> None:
        """Release the connection's resources, without waiting for the other side."""


Opener = Callable[[threading.Event], Connection]


class LiveCapture:
    """This capture gives a camera's or stream's frames until it is stopped, and connects again after every loss."""

    live = True

    def __init__(self, name: str, opener: Opener, events: Events) -> None:
        self.name = name
        self._opener = opener
        self._events = events
        self._index = 0
        self._faults = FloodLimit(MAX_FAULTS, "damaged or resized frames")
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
                # a child process that Ctrl-C ended is no loss, but the end of the run
                if stop.wait(SIGNAL_LAG):
                    return
                self._report_outage("lost", str(error))
            if self._index > before:  # frames came, so the delay counts from the loss
                delay = FIRST_DELAY if time.monotonic() - started > STEADY_FLOW else delay
                started = time.monotonic()
            pause = delay * (1 - JITTER * random.random())  # noqa: S311 - no secret
            taken = time.monotonic() - started
            stop.wait(0 if taken >= LONG_TRY else max(pause - taken, 0))
            delay = min(2 * delay, MAX_DELAY)

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
        parts, self._faults = FloodLimit(MAX_PARTS, "frames"), FloodLimit(MAX_FAULTS, "damaged or resized frames")
        while not stop.is_set():
            frame = self._read(connection)
            if frame is not None:
                parts.count()
                yield frame
                since = time.monotonic()  # whoever took the frame may have kept it for long
            elif time.monotonic() - since >= connection.patience and not stop.is_set():
                self._report_outage("stalled", f"no frame for {time.monotonic() - since:.1f} s")
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
        self._report_flow(image)
        return self._frame(image)

    def _frame(self, image: Pixels | None, error: str | None = None) -> Frame:
        self._index += 1
        return Frame(self.name, self._index - 1, image, error, True, time.monotonic(), time.time())

    def _damaged(self, kind: Kind, reason: str) -> Frame:
        self._faults.count()
        self._events.report(kind, self.name, reason)
        return self._frame(None, reason)

    def _report_flow(self, image: Pixels) -> None:
        """Report what a good frame shows: that the source is back, or that its resolution has changed."""
        now = time.monotonic()
        if self._reported:
            self._reported.clear()
            self._events.report("reconnected", self.name, "frames flow again", seconds=now - self._last)
        self._last = now
        size = (image.shape[1], image.shape[0])
        if self._size not in (None, size):
            self._faults.count()
            self._events.report("resized", self.name, f"from {self._size[0]}x{self._size[1]} to {size[0]}x{size[1]}")
        self._size = size

    def _report_outage(self, kind: Kind, detail: str) -> None:
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


class Capture(Protocol):
    """This protocol is one source of frames, which its user reads on a thread of its own.

    ``name`` is the source as the user named it, passwords masked. The frames of a ``live`` source never end, and are
    lost when nobody takes them.
    """

    name: str
    live: bool

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield frames, with ``captured`` and ``timestamp`` set; may be called once.

        Files end after their last frame. Live sources end only after ``stop`` is set, within 1.5 s.
        """


class FileCapture:
    """This capture reads files, folders, globs and videos, one after the other."""

    live = False

    def __init__(self, sources: Sources, name: str, *, played: bool = False) -> None:
        """Take what is to be read, and the name that messages use; nothing is read yet.

        Where ``played``, a video's frames come when they are due, as a camera's, and not as fast as they are decoded.
        """
        self.name = name
        self.total = sources.total
        self._sources = sources
        self._played = played

    @property
    def left_out(self) -> Counter[str]:
        """The numbers of files that folders hold besides images and videos, by suffix."""
        return self._sources.left_out

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield every frame in order; ``open_sources`` says what becomes of files that can't be read."""
        due = 0.0  # when the frame before was due
        position: float | None = None  # the place of the frame before in its video
        for frame in self._sources:
            if self._played and frame.position is not None:
                now = time.monotonic()
                if position is None or frame.index == 0:
                    due = now
                else:
                    due += min(frame.position - position, MAX_FRAME_GAP)
                stop.wait(max(due - now, 0))
            position = frame.position
            if stop.is_set():
                return
            yield replace(frame, captured=time.monotonic(), timestamp=time.time())


def open_captures(names: Sequence[str | Path], options: CaptureOptions, events: Events) -> list[Capture]:
    """Make captures of the sources named; nothing is opened before ``frames`` is called.

    Files, folders, globs and videos form one capture, in order, where the first of them stands. A live source is one
    capture each: a number, ``/dev/videoN`` or a link below ``/dev/v4l``, ``csi://N``, ``rtsp://``, ``http(s)://`` with
    motion JPEG, and ``gst://PIPELINE``. A name that is a file is that file. Where ``options`` ask for the newest frame
    of files too, a video plays as if a camera gave it. Losses, returns and damaged frames go to ``events``.

    Raises:
        UsageError: there is no name, an empty one, or one that can't be any of these.
        SourceError: a file does not exist, or a folder or glob gives none.
    """
    check_names(names)
    understood = [(str(name), parse_live(str(name)) if isinstance(name, str) else None) for name in names]
    files = [name for name, live in understood if live is None]
    captures: list[Capture] = []
    for name, live in understood:
        if live is not None:
            captures.append(LiveCapture(_unique_name(live.display, captures), opener(live, options), events))
        elif files:
            shown = name if len(files) == 1 else f"{len(files)} files"
            captures.append(FileCapture(open_sources(files), shown, played=options.every_frame is False))
            files = []
    return captures


def _unique_name(name: str, captures: Sequence[Capture]) -> str:
    """Return a name that no capture has yet: two cameras may differ in a password alone, which is not shown."""
    taken = {capture.name for capture in captures}
    names = (name if number == 1 else f"{name} ({number})" for number in itertools.count(1))
    return next(unique for unique in names if unique not in taken)


def opener(live: LiveName, options: CaptureOptions) -> Opener:
    """Return the function that connects to a live source, each time anew, and waits no longer once its event is set.

    It raises a SourceError where the source is not there, does not answer in time, refuses, or the event was set.
    """
    # pictures and videos need nothing of what cameras and streams are read through
    from .camera import open_node  # noqa: PLC0415
    from .child import ChildConnection, csi_pipeline  # noqa: PLC0415
    from .mjpeg import MjpegConnection  # noqa: PLC0415
    from .stream import RtspOpener  # noqa: PLC0415

    if live.kind == "v4l2":
        return lambda stop: open_node(live.address, options, stop)
    if live.kind == "csi":
        return lambda stop: ChildConnection(csi_pipeline(int(live.address), options), options, stop)
    if live.kind == "gst":
        return lambda stop: ChildConnection(live.address, options, stop)
    if live.kind == "mjpeg":
        return lambda stop: MjpegConnection(live.address, stop, options)
    return RtspOpener(live.address, options)
