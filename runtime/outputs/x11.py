"""Makes sure that a window is painted: OpenCV's wheel on Linux else loses one in fifty, one in ten on a busy machine.

Its Qt tells Xlib to leave the X server's events alone (``XSetEventQueueOwner``) through the libX11-xcb that the wheel
brings, which was built for an older libX11 than the one installed here: it writes to the wrong place of a structure
that only the two libraries know. Xlib goes on reading events while it waits for a reply, and they are lost. Without the
event that says it was mapped a window counts as hidden and is never drawn, however often it is shown.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["LIBRARY", "keep_events"]

LIBRARY = "libX11-xcb.so.1"  # installed beside libX11 on every desktop; Debian and Ubuntu: libx11-xcb1


def keep_events() -> bool:
    """Let what is loaded from now on find the installed libX11-xcb first, which fits the installed libX11.

    Call this before the first window; it is harmless where OpenCV's windows are not Qt's.

    Returns:
        Whether that library is there: without it a window may stay empty.
    """
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
