"""Finds out whether a window can be opened here, before this process tries: where it can't, Qt ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache

from ..errors import UsageError
from .x11 import keep_events

__all__ = ["default_headless", "display_problem", "require_display"]

PATIENCE = 10.0  # seconds for another process to start and open a window
PROBE = "import cv2; cv2.namedWindow('hybrid-edge', cv2.WINDOW_NORMAL); cv2.destroyAllWindows()"
VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY")


def default_headless() -> bool:
    """Return whether to leave the window out: no display is named, or it opens no window."""
    return display_problem() is not None


def display_problem() -> str | None:
    """Return why no window can be opened here, on one line; None where one can.

    Where a display is named, a window is tried, which takes about half a second.
    """
    named = tuple((name, os.environ[name]) for name in VARIABLES if os.environ.get(name))
    if not named:
        return f"no display: neither {' nor '.join(VARIABLES)} is set"
    return _try_window(named)


def require_display(advice: str) -> None:
    """Refuse a window where none can be opened, and see to it that one that is opened is painted.

    Args:
        advice: what to do instead, for the error.

    Raises:
        UsageError: no window can be opened here.
    """
    problem = display_problem()
    if problem:
        raise UsageError(f"{problem}; {advice}")
    keep_events()


@lru_cache(1)
def _try_window(named: tuple[tuple[str, str], ...]) -> str | None:
    """Open a window in a process of its own: no display server, a wrong cookie, an OpenCV without windows all show."""
    where = " ".join(f"{name}={value}" for name, value in named)
    try:
        probe = subprocess.run(  # noqa: S603
            [sys.executable, "-c", PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"{where}: expected a display, found one that did not open a window within {PATIENCE:.0f} s"
    if probe.returncode == 0:
        return None
    said = [line.strip() for line in probe.stderr.splitlines() if line.strip()]
    reason = next((line for line in said if "could not connect" in line or "error:" in line.lower()), "no reason given")
    return f"{where}: expected a display, found none that opens a window ({reason[:200]})"
