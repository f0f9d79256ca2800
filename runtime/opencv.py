"""OpenCV is imported in this one place, with limits and without its messages; a clear error says if it is missing."""

from __future__ import annotations

import os

from .errors import BackendUnavailableError
from .foreign_text import filter_libraries
from .process import usable_cpus, usable_memory

__all__ = ["MAX_PIXELS", "V4L2_WAIT", "cv2"]

BYTES_PER_PIXEL = 8  # that decoding takes at its peak, measured: 132 Mpx of PNG or progressive JPEG take 1.1 GB
MEMORY_SHARE = 16  # one frame may take that part of the memory: 62 Mpx where there are 7.4 GiB, on an 8 GB Jetson
LARGEST_PICTURE = 110_000_000  # pixels: above the cameras that there are (108 Mpx), whatever the memory
SMALLEST_LIMIT = 2**23 + 2**20  # pixels: a 4K picture is read everywhere
V4L2_WAIT = 1  # seconds that a camera's next frame is waited for, where OpenCV would wait 10


def largest_picture(memory: int | None) -> int:
    """Return the most pixels that a picture or frame may have where so many bytes of memory are; None: nobody knows."""
    share = LARGEST_PICTURE if memory is None else memory // (MEMORY_SHARE * BYTES_PER_PIXEL)
    return max(min(share, LARGEST_PICTURE), SMALLEST_LIMIT)


MAX_PIXELS = largest_picture(usable_memory())

# OpenCV reads these once, when it is imported; the faults that they silence come as our errors, with the file's name
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's AV_LOG_QUIET
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(V4L2_WAIT))

filter_libraries()
try:
    import cv2
except ImportError as error:
    # JetPack 6's OpenCV is built for NumPy 1, and says "numpy.core.multiarray failed to import" beside NumPy 2
    advice = (
        "it was built for an older NumPy than the one found: pip install 'numpy<2'"
        if "numpy" in str(error)
        else "pip install 'hybrid-edge[cpu]' (on a Jetson it comes with JetPack: apt install python3-opencv)"
    )
    raise BackendUnavailableError(
        f"OpenCV, which reads and resizes images, can't be imported here ({error}): {advice}"
    ) from error

if (cpus := len(usable_cpus())) < cv2.getNumThreads():  # OpenCV knows of affinity, and not of every quota
    cv2.setNumThreads(cpus)
