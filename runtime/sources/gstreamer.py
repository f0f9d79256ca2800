"""Read frames from a GStreamer pipeline in a child process, as pip's OpenCV has no GStreamer inside."""

from __future__ import annotations

import shlex
import threading
import time

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from .child import Child
from .live import READ_WAIT
from .options import CaptureOptions
from .pnm import PnmReader

__all__ = ["ChildConnection", "csi_pipeline", "open_child", "rtsp_pipeline"]

FIRST = 8.0  # seconds to the first frame: a sensor has to start, or a slow camera to send a key frame
PATIENCE = 2.0  # seconds without a frame after which the pipeline has stalled
SLICE = 0.1  # seconds between two looks at ``stop``

Image = npt.NDArray[np.uint8]


class ChildConnection:
    """This connection holds a running pipeline and reads its frames."""

    def __init__(self, pipeline: str, options: CaptureOptions, stop: threading.Event) -> None:
        """Start the child process; ``open_child`` describes the arguments."""
        self.patience = options.patience(PATIENCE)
        self._child = Child(f"{pipeline} ! {_tail(options)}")
        self._reader = PnmReader(self._fill)
        self._stop = stop
        self._deadline = 0.0
        self._first: Image | None = None

    def wait_for_first(self) -> None:
        """Wait for the first frame, ``FIRST`` seconds at most.

        Raises:
            SourceError: no frame came, the pipeline ended, or ``stop`` was set.
        """
        self._deadline = time.monotonic() + FIRST
        self._first = self._reader.next()
        if self._first is None:
            raise SourceError("stopped" if self._stop.is_set() else f"no frame within {FIRST:.0f} s of its start")

    def read(self) -> Image | None:
        """Return the next frame, (H, W, 3) uint8 BGR; None if none was complete within ``READ_WAIT``, or on a stop.

        Raises:
            SourceError: the pipeline ended; the message quotes what it said about that.
        """
        if self._first is not None:
            first, self._first = self._first, None
            return first
        self._deadline = time.monotonic() + READ_WAIT
        return self._reader.next()

    def close(self) -> None:
        """Kill the child process and reap it."""
        self._child.close()

    def _fill(self, buffer: memoryview) -> int:
        """Put bytes into a buffer as soon as there are some; return how many, 0 at the deadline or on a stop."""
        while not self._stop.is_set() and (left := self._deadline - time.monotonic()) > 0:
            if count := self._child.read(buffer, min(SLICE, left)):
                return count
        return 0


def open_child(pipeline: str, options: CaptureOptions, stop: threading.Event) -> ChildConnection:
    """Start a pipeline and wait for its first frame.

    Args:
        pipeline: elements in ``gst-launch-1.0``'s language that end in raw video.
        options: the size and rate to convert to; whether every frame is wanted.
        stop: an event that, once set, ends the wait early.

    Raises:
        SourceError: GStreamer is not installed, the pipeline is wrong or ended, or no frame came.
    """
    connection = ChildConnection(pipeline, options, stop)
    try:
        connection.wait_for_first()
    except BaseException:
        connection.close()
        raise
    return connection


def csi_pipeline(sensor: int, options: CaptureOptions) -> str:
    """Return the pipeline that reads a Jetson's CSI sensor through its image processor."""
    caps = "video/x-raw(memory:NVMM)"
    if options.size:
        caps += ",width={},height={}".format(*options.size)
    if options.fps:
        caps += f",framerate={_rate(options.fps)}"
    return f"nvarguscamerasrc sensor-id={sensor} ! {shlex.quote(caps)} ! nvvidconv ! video/x-raw,format=I420"


def rtsp_pipeline(url: str) -> str:
    """Return the pipeline that reads RTSP where OpenCV has no FFmpeg; it holds no frame back to smooth the stream."""
    return f"rtspsrc location={shlex.quote(url)} protocols=tcp latency=0 ! decodebin"


def _tail(options: CaptureOptions) -> str:
    """Return the elements that turn raw video into PNM frames, scaled and thinned only if the options ask for it."""
    rate = f"videorate drop-only=true ! video/x-raw,framerate={_rate(options.fps)} ! " if options.fps else ""
    limits = "max-size-buffers=1 max-size-bytes=0 max-size-time=0 leaky=downstream"
    queue = "" if options.every_frame else f"queue {limits} ! "
    scale = "videoscale ! video/x-raw,width={},height={} ! ".format(*options.size) if options.size else ""
    return f"{rate}{queue}{scale}videoconvert ! video/x-raw,format=RGB ! pnmenc"


def _rate(fps: float) -> str:
    return f"{round(fps * 1000)}/1000"
