"""Undoing what Qt's windows do with the wheel: they zoom, and OpenCV has no word against it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from ..opencv import cv2
from .page import TITLE

__all__ = ["Zoom"]

REST = 0.3  # seconds without the wheel before the window is opened anew
LARGEST = 60  # notches; Qt stops at a hundredfold


class Zoom:
    """How far the wheel has zoomed the window in; nothing where OpenCV's windows are not Qt's.

    OpenCV's Qt view enlarges by a tenth at each notch up, shrinks by a tenth at each notch down, and never under its
    own size (``DefaultViewPort::scaleView`` in modules/highgui/src/window_QT.cpp). Only a new window begins without.
    """

    def __init__(self) -> None:
        self._active = _windows_are_qt()
        self._notches = 0
        self._moved = 0.0

    def wheel(self, *, up: bool) -> None:
        """The wheel turned by one notch."""
        if self._active:
            self._notches = min(max(self._notches + (1 if up else -1), 0), LARGEST)
            self._moved = time.monotonic()

    def due(self) -> bool:
        """Whether the window is zoomed in and the wheel rests."""
        return self._notches > 0 and time.monotonic() >= self._moved + REST

    def undo(self, open_again: Callable[[], None]) -> None:
        """Open the window again, where it was."""
        before = cv2.getWindowImageRect(TITLE)
        cv2.destroyWindow(TITLE)
        cv2.waitKey(1)  # lets the window system carry it out
        open_again()
        cv2.moveWindow(TITLE, before[0], before[1])
        cv2.waitKey(1)
        after = cv2.getWindowImageRect(TITLE)
        if after[:2] != before[:2]:  # by its frame, which is not in these numbers
            cv2.moveWindow(TITLE, 2 * before[0] - after[0], 2 * before[1] - after[1])
        self._notches = 0


def _windows_are_qt() -> bool:
    """Whether Qt draws OpenCV's windows; OpenCV 4.8 says so only in what it was built with."""
    if hasattr(cv2, "currentUIFramework"):
        return bool(cv2.currentUIFramework().startswith("QT"))
    return re.search(r"^ *GUI: +QT", cv2.getBuildInformation(), re.MULTILINE) is not None
