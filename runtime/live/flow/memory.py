"""How the C library keeps the memory of frames: for the next frame, not for the system."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["keep_frame_memory"]

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
LARGEST = 2**25  # 32 MiB, the most that glibc takes for M_MMAP_THRESHOLD; a 4K frame has 24 MiB
KEPT = 2**27  # 128 MiB of freed memory that stay


@cache
def keep_frame_memory() -> bool:
    """Let freed frames be used for the next ones, in this process, from now on; False where the C library has no such.

    Without that, glibc gives large blocks back to the system each time several frames are freed together, and the
    kernel clears the pages of every new frame: of a 640 x 480 video that took 250 µs a frame, more than half as long
    as decoding it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    settings = {M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: KEPT, M_ARENA_MAX: 1}
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
