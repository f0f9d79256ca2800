"""OpenCV, imported in one place: limited and quiet, or a clear error where it is missing."""

from __future__ import annotations

import os

from .errors import BackendUnavailableError

__all__ = ["MAX_PIXELS", "cv2"]

MAX_PIXELS = 2**27  # 134 Mpx, 400 MB decoded: above every camera, far below what exhausts a device

# OpenCV reads these once, when it is imported; what they hide comes as our errors, with the file's name
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's AV_LOG_QUIET

try:
    import cv2
except ImportError as error:
    raise BackendUnavailableError(
        f"OpenCV, which reads and resizes images, can't be imported here ({error}): pip install 'hybrid-edge[cpu]' "
        "(on a Jetson it comes with JetPack: apt install python3-opencv)"
    ) from error
