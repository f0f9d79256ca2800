"""The options OpenCV hands to FFmpeg, which come by one environment variable for all captures of the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["VARIABLE", "file_options", "set_stream_options"]

VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# TCP, as what UDP loses is never seen again; no sound; and not the first second of frames read to guess their rate
STREAMS = "rtsp_transport;tcp|allowed_media_types;video|fpsprobesize;0"

_lock = threading.Lock()


def set_stream_options() -> None:
    """From here on streams open fast; what the user has set stays as it is."""
    with _lock:
        os.environ.setdefault(VARIABLE, STREAMS)


@contextmanager
def file_options() -> Iterator[None]:
    """Open a file without them: an MPEG-TS whose rate is not looked for says it has twice the frames it has.

    A stream that is opened in these milliseconds takes a second longer.
    """
    with _lock:
        ours = os.environ.get(VARIABLE) == STREAMS
        if ours:
            del os.environ[VARIABLE]
        try:
            yield
        finally:
            if ours:
                os.environ[VARIABLE] = STREAMS
