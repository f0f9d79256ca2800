"""Read USB cameras through OpenCV's V4L2, compressed frames where the camera has them, with waits that end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, SourceError
from ..opencv import V4L2_WAIT, cv2
from .blocking import BLOCKING_CALLS, open_capture
from .options import CaptureOptions
from .paths import is_there

__all__ = ["CameraConnection", "open_camera"]

PATIENCE = 3.0  # seconds without a frame after which a camera has stalled; some need two for their first


class CameraConnection:
    """This connection reads an open /dev/videoN."""

    def __init__(self, capture: cv2.VideoCapture, node: str, patience: float) -> None:
        self.patience = patience
        self._node = node
        self._capture = capture

    def read(self) -> npt.NDArray[np.uint8] | None:
        """Return the next frame, (H, W, 3) uint8 BGR; None if none came within a second.

        Raises:
            ImageError: a frame came that can't be decoded.
            SourceError: the camera is gone.
        """
        start = time.monotonic()
        try:
            with BLOCKING_CALLS.noted(f"read {self._node}"):
                grabbed = self._capture.grab()
                there, image = self._capture.retrieve() if grabbed else (False, None)
        except cv2.error as error:
            raise ImageError(f"the camera's frame can't be decoded: {error.err}") from None
        if not grabbed:
            if time.monotonic() - start > 0.9 * V4L2_WAIT:
                return None
            raise SourceError("the camera gives no more frames: unplugged, or taken by another program")
        if not there or image is None or image.size == 0:
            raise ImageError("the camera's frame can't be decoded: damaged on the way")
        return np.asarray(image, dtype=np.uint8)

    def close(self) -> None:
        """Close the device."""
        with BLOCKING_CALLS.noted(f"release {self._node}"):
            self._capture.release()


def open_camera(node: str, options: CaptureOptions, stop: threading.Event) -> CameraConnection:
    """Open a camera that gives pictures by itself, not a bare sensor.

    Args:
        node: the device's path ``/dev/videoN``, or a link to it.
        options: the size and rate to ask for; the camera takes the nearest it has.
        stop: an event that, once set, ends the wait early.

    Raises:
        SourceError: the camera is not there, may not be opened or is in use by another program, or ``stop`` was set.
    """
    path = Path(node)
    if not is_there(path):
        raise SourceError("no such camera; hybrid-infer --list-cameras names those there are")
    capture = open_capture(lambda: _open(path, options), stop, node)
    if not capture.isOpened():
        capture.release()
        raise SourceError("can't be opened: another program has it, or you are not in the group video")
    return CameraConnection(capture, node, options.patience(PATIENCE))


def _open(path: Path, options: CaptureOptions) -> cv2.VideoCapture:
    """Open a camera and ask for MJPG: uncompressed, most USB cameras give few frames a second at more than 640x480."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    if capture.isOpened():
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        if options.size:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size[1])
        if options.fps:
            capture.set(cv2.CAP_PROP_FPS, options.fps)
    return capture
