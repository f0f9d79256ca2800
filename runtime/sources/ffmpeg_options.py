"""The options OpenCV hands to FFmpeg, which come by one environment variable for all captures of the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["VARIABLE", "file_options", "probing", "set_stream_options"]

VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# TCP, as what UDP loses is never seen again; no sound; not the first second of frames read to guess their rate
PROBED = "rtsp_transport;tcp|allowed_media_types;video|fpsprobesize;0"
# ... and no key frame awaited: OpenCV opens one capture at a time, and the others would have to wait for it too
STREAMS = f"{PROBED}|probesize;32"

_lock = threading.Lock()


def set_stream_options() -> None:
    """From here on streams open fast; what the user has set stays as it is."""
    with _lock:
        os.environ.setdefault(VARIABLE, STREAMS)


@contextmanager
def probing() -> Iterator[None]:
    """A stream that is opened meanwhile is read until its resolution is known.

    Where files or other streams are opened at the same moment, one of them may be opened with the other's options:
    it takes longer, or has no resolution and has to be opened again.
    """
    _replace(STREAMS, PROBED)
    try:
        yield
    finally:
        _replace(PROBED, STREAMS)


def _replace(old: str, new: str) -> None:
    with _lock:
        if os.environ.get(VARIABLE) == old:
            os.environ[VARIABLE] = new


@contextmanager
def file_options() -> Iterator[None]:
    """Open a file without them: an MPEG-TS whose rate is not looked for says it has twice the frames it has.

    A stream that is opened in these milliseconds takes a second longer.
    """
    with _lock:
        ours = os.environ.get(VARIABLE) in (STREAMS, PROBED)
        if ours:
            del os.environ[VARIABLE]
        try:
            yield
        finally:
            if ours:
                os.environ[VARIABLE] = STREAMS
