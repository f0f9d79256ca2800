"""Has the C library keep the memory of frames for the next ones, and recognizes errors that mean it ran out."""

from __future__ import annotations

import ctypes
from functools import cache

from ..opencv import cv2

__all__ = ["OUT_OF_MEMORY", "is_shortage", "keep_frame_memory"]

OUT_OF_MEMORY = (MemoryError, cv2.error)
"""What to catch and ask ``is_shortage`` about: OpenCV has one error for everything."""

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
LARGEST = 2**25  # 32 MiB, the most that glibc takes for M_MMAP_THRESHOLD; a 4K frame has 24 MiB
KEPT = 2**27  # 128 MiB of freed memory that the process keeps


@cache
def keep_frame_memory() -> bool:
    """Reuse the memory of freed frames for the next ones, in this process, from now on.

    By default glibc gives large blocks back to the system each time several frames are freed together, and the kernel
    clears the pages of every new frame: of a 640 x 480 video that took 250 µs a frame, more than half as long as
    decoding it. Return False where the C library has no such settings or refuses them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    settings = {M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: KEPT, M_ARENA_MAX: 1}
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)


def is_shortage(error: Exception) -> bool:
    """Return whether an error of ``OUT_OF_MEMORY`` means that memory did not suffice, and not a bug."""
    # OpenCV's text; its code is an attribute of the class, not of the error
    return not isinstance(error, cv2.error) or "Insufficient memory" in str(error)
