"""Knows OpenCV's windows: whether one can be opened here and is painted, which key was pressed, whether it is gone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import lru_cache

from ..errors import UsageError
from ..opencv import cv2
from ..process import python_command

PROBE_TIMEOUT = 10.0  # seconds for another process to start and open a window
PROBE = "import cv2; cv2.namedWindow('hybrid-edge', cv2.WINDOW_NORMAL); cv2.destroyAllWindows()"
VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY")
X11_LIBRARY = "libX11-xcb.so.1"  # installed beside libX11 on every desktop; Debian and Ubuntu: libx11-xcb1
QUIT_KEYS = frozenset({"q", "\x1b"})


def display_problem() -> str | None:
    """Return why no window can be opened here, on one line; None where one can.

    Where a display is named, a window is tried, which takes about half a second.
    """
    named = tuple((name, os.environ[name]) for name in VARIABLES if os.environ.get(name))
    if not named:
        return f"no display: neither {' nor '.join(VARIABLES)} is set"
    return _try_window(named)


def require_display(advice: str) -> None:
    """Raise UsageError with ``advice`` where no window can be opened; else see to it that one is painted."""
    problem = display_problem()
    if problem:
        raise UsageError(f"{problem}; {advice}")
    keep_events()


@lru_cache(1)
def _try_window(named: tuple[tuple[str, str], ...]) -> str | None:
    """Open a window in a process of its own, as Qt ends one that can't for want of a server or of a right cookie."""
    where = " ".join(f"{name}={value}" for name, value in named)
    try:
        probe = subprocess.run(  # noqa: S603
            python_command(PROBE),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"{where}: expected a display, found one that did not open a window within {PROBE_TIMEOUT:.0f} s"
    if probe.returncode == 0:
        return None
    messages = [line.strip() for line in probe.stderr.splitlines() if line.strip()]
    reason = next(
        (line for line in messages if "could not connect" in line or "error:" in line.lower()), "no reason given"
    )
    return f"{where}: expected a display, found none that opens a window ({reason[:200]})"


def keep_events() -> bool:
    """Let what is loaded from now on find the installed libX11-xcb first; return False where it is not there.

    Without it OpenCV's wheel on Linux leaves one window in fifty empty, one in ten on a busy machine. Its Qt tells Xlib
    to leave the X server's events alone (``XSetEventQueueOwner``) through the libX11-xcb that the wheel brings, which
    was built for an older libX11: it writes to the wrong place of a structure that only the two libraries know. Xlib
    goes on reading events while it waits for a reply, and they are lost. Without the event that says it was mapped a
    window counts as hidden and is never drawn, however often it is shown.

    Call this before the first window; it is harmless where OpenCV's windows are not Qt's.
    """
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL(X11_LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def pressed_key(wait: int) -> str:
    """Wait ``wait`` ms for a key and return its character in lower case; empty if none or another key came.

    ``waitKey`` gives only the lowest eight bits, which make a Q of the left arrow (X11's 0xff51). All are needed, but
    for those from the seventeenth on: there GTK has Shift, Caps Lock and Num Lock.
    """
    code = cv2.waitKeyEx(wait) & 0xFFFF
    return chr(code).lower() if 0 < code < 256 else ""


def is_visible(title: str) -> bool:
    """Return whether this process has a window of that title open."""
    try:
        visible = cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE)
        if visible < 0:  # GTK, which a Jetson's OpenCV has, never knows; but other properties it knows of open ones
            return bool(cv2.getWindowProperty(title, cv2.WND_PROP_AUTOSIZE) >= 0)
        return bool(visible >= 1)
    except cv2.error:  # some builds raise for a window that is gone
        return False


def close_window(title: str) -> None:
    """Close a window, unless the user has."""
    if is_visible(title):
        cv2.destroyWindow(title)
        cv2.waitKey(1)  # lets the window system carry it out
