"""Make of each source that was named a capture, which gives frames: files to their end, live sources until a stop."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..errors import SourceError, UsageError
from ..frame import Frame
from ..opencv import cv2
from .blocking import BLOCKING_CALLS
from .cameras import inspect_camera, list_cameras, sensor_number
from .events import Events
from .files import Sources, check_names, open_sources
from .gstreamer import csi_pipeline, open_child, rtsp_pipeline
from .live import Connection, LiveCapture, Opener
from .mjpeg import PATIENCE, open_mjpeg
from .names import LiveName, parse_live
from .options import CaptureOptions
from .paths import is_there
from .rtsp import PATIENCE as RTSP_PATIENCE
from .rtsp import open_rtsp
from .v4l2 import open_camera

__all__ = ["Capture", "FileCapture", "open_captures", "opener", "reading_note"]

LONGEST = 10.0  # seconds between two frames of a played video: more means that its clock jumped, as at a damaged place


class Capture(Protocol):
    """This protocol is one source of frames, which its user reads on a thread of its own.

    Attributes:
        name: the source as the user named it, passwords masked.
        live: whether frames never end, and are lost when nobody takes them.
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
        """Take what is to be read; nothing is read yet.

        Args:
            sources: the files to read.
            name: what messages call the capture.
            played: whether a video's frames come when they are due, as a camera's, and not as fast as they are decoded.
        """
        self.name = name
        self.total = sources.total
        self._sources = sources
        self._played = played

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield every frame in order; ``open_sources`` says what becomes of files that can't be read."""
        playing = _Playing(stop)
        for frame in self._sources:
            if self._played:
                playing.wait(frame)
            if stop.is_set():
                return
            yield replace(frame, captured=time.monotonic(), timestamp=time.time())


class _Playing:
    """This class waits for the moments at which a video's frames are due, counted from its first one."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._due: float | None = None
        self._position = 0.0

    def wait(self, frame: Frame) -> None:
        """Return when a frame is due or ``stop`` is set; at once if the frame has no position."""
        if frame.position is None:
            self._due = None
            return
        now = time.monotonic()
        if self._due is None or frame.index == 0:
            self._due = now
        else:
            self._due += min(frame.position - self._position, LONGEST)
        self._position = frame.position
        self._stop.wait(max(self._due - now, 0))


def open_captures(names: Sequence[str | Path], options: CaptureOptions, events: Events) -> list[Capture]:
    """Make captures of the sources named; nothing is opened before ``frames`` is called.

    Args:
        names: files, folders, globs and videos, which form one capture, in order, where the first of them stands; and
            live sources, one capture each: a number, ``/dev/videoN`` or a link below ``/dev/v4l``, ``csi://N``,
            ``rtsp://``, ``http(s)://`` with motion JPEG, and ``gst://PIPELINE``. A name that is a file is that file.
        options: how the sources are to be read; where the newest frame is asked for of files too, a video plays as if
            a camera gave it.
        events: takes reports of losses, returns and damaged frames.

    Raises:
        UsageError: there is no name, an empty one, or one that can't be any of these.
        SourceError: a file does not exist, or a folder or glob gives none.
    """
    if not names:
        raise UsageError("expected at least one source: a camera, a stream, an image, a folder, a glob or a video")
    check_names(names)
    understood = [(str(name), parse_live(str(name)) if isinstance(name, str) else None) for name in names]
    files = [name for name, live in understood if live is None]
    captures: list[Capture] = []
    for name, live in understood:
        if live is not None:
            captures.append(LiveCapture(_told_apart(live.display, captures), opener(live, options), events))
        elif files:
            shown = name if len(files) == 1 else f"{len(files)} files"
            captures.append(FileCapture(open_sources(files), shown, played=options.every_frame is False))
            files = []
    return captures


def _told_apart(name: str, captures: Sequence[Capture]) -> str:
    """Return a name that no capture has yet: two cameras may differ in a password alone, which is not shown."""
    taken = {capture.name for capture in captures}
    names = (name if number == 1 else f"{name} ({number})" for number in itertools.count(1))
    return next(unique for unique in names if unique not in taken)


def opener(live: LiveName, options: CaptureOptions) -> Opener:
    """Return the function that connects to a live source, each time anew."""
    if live.kind == "v4l2":
        return lambda stop: _open_node(live.address, options, stop)
    if live.kind == "csi":
        return lambda stop: open_child(csi_pipeline(int(live.address), options), options, stop)
    if live.kind == "gst":
        return lambda stop: open_child(live.address, options, stop)
    if live.kind == "mjpeg":
        return lambda stop: open_mjpeg(live.address, stop, options.patience(PATIENCE))
    if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        return lambda stop: open_rtsp(
            live.address, stop, newest=not options.every_frame, patience=options.patience(RTSP_PATIENCE)
        )
    return lambda stop: open_child(rtsp_pipeline(live.address), options, stop)


def reading_note(name: str | Path) -> str | None:
    """Return what the user should know of how a source is read: that /dev/videoN is a bare sensor; else None."""
    live = parse_live(str(name))
    if live is None or live.kind != "v4l2" or not is_there(live.address):
        return None
    try:
        sensor = _sensor(live.address)
    except SourceError:  # not told here: opening may work by then, and else reports a loss
        return None
    return (
        None
        if sensor is None
        else (f"{live.address} is a bare sensor (Bayer formats only): read through nvarguscamerasrc, as csi://{sensor}")
    )


def _open_node(node: str, options: CaptureOptions, stop: threading.Event) -> Connection:
    """Open a /dev/videoN as what it is, a camera, or a bare sensor that needs the image processor."""
    sensor = _sensor(node) if is_there(node) else None
    if sensor is None:
        return open_camera(node, options, stop)
    return open_child(csi_pipeline(sensor, options), options, stop)


def _sensor(node: str) -> int | None:
    """Return a bare sensor's number, or None for a camera."""
    with BLOCKING_CALLS.noted(f"ask {node}"):
        camera = inspect_camera(node)
        if camera is None or not camera.bare_sensor:
            return None
        return sensor_number(os.path.realpath(node), list_cameras())  # these know no names but /dev/videoN
