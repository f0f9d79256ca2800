"""Set the options that OpenCV hands to FFmpeg: one environment variable for all captures of the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["VARIABLE", "file_options", "probing", "set_stream_options"]

VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# TCP, as UDP loses packets for good; no sound; and no reading of a second of frames only to guess their rate
PROBED = "rtsp_transport;tcp|allowed_media_types;video|fpsprobesize;0"
# as PROBED, but no key frame is awaited: OpenCV opens one capture at a time, and the others would wait for it too
STREAMS = f"{PROBED}|probesize;32"

_lock = threading.Lock()


def set_stream_options() -> None:
    """Make streams open fast from here on; options that the user has set stay as they are."""
    with _lock:
        os.environ.setdefault(VARIABLE, STREAMS)


@contextmanager
def probing() -> Iterator[None]:
    """Let a stream that is opened in this context be read until its resolution is known.

    Where files or other streams are opened at the same moment, one of them may get the other's options: it
    then takes longer, or has no resolution and has to be opened again.
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
    """Let a file be opened without these options: an MPEG-TS whose rate is not looked for announces twice its frames.

    A stream that is opened in these milliseconds takes a second longer to open.
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
