"""Undo the zoom by which Qt's windows answer the wheel, and which OpenCV can't switch off."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from ..opencv import cv2
from .page import TITLE

__all__ = ["Zoom"]

REST = 0.3  # seconds without the wheel before the window is opened anew
LARGEST = 60  # notches that count, as Qt stops zooming at a hundredfold


class Zoom:
    """This class counts how far the wheel has zoomed the window in; it does nothing where Qt does not draw the windows.

    OpenCV's Qt view enlarges by a tenth at each notch up, shrinks by a tenth at each notch down, and never under its
    own size (``DefaultViewPort::scaleView`` in modules/highgui/src/window_QT.cpp). Only a new window is not zoomed.
    """

    def __init__(self) -> None:
        self._active = _windows_are_qt()
        self._notches = 0
        self._moved = 0.0

    def wheel(self, *, up: bool) -> None:
        """Note that the wheel turned by one notch."""
        if self._active:
            self._notches = min(max(self._notches + (1 if up else -1), 0), LARGEST)
            self._moved = time.monotonic()

    def due(self) -> bool:
        """Return whether the window is zoomed in and the wheel rests."""
        return self._notches > 0 and time.monotonic() >= self._moved + REST

    def undo(self, open_again: Callable[[], None]) -> None:
        """Close the window and let ``open_again`` open it anew, then move it to where it was."""
        before = cv2.getWindowImageRect(TITLE)
        cv2.destroyWindow(TITLE)
        cv2.waitKey(1)  # lets the window system carry it out
        open_again()
        cv2.moveWindow(TITLE, before[0], before[1])
        cv2.waitKey(1)
        after = cv2.getWindowImageRect(TITLE)
        if after[:2] != before[:2]:  # off by the window's frame, which these numbers leave out
            cv2.moveWindow(TITLE, 2 * before[0] - after[0], 2 * before[1] - after[1])
        self._notches = 0


def _windows_are_qt() -> bool:
    """Return whether Qt draws OpenCV's windows; OpenCV 4.8 tells it only in its build information."""
    if hasattr(cv2, "currentUIFramework"):
        return bool(cv2.currentUIFramework().startswith("QT"))
    return re.search(r"^ *GUI: +QT", cv2.getBuildInformation(), re.MULTILINE) is not None
