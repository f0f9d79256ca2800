"""What can't be interrupted is opened on a thread of its own, and whoever wants to stop does not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ..errors import SourceError
from ..opencv import cv2
from .calls import CALLS

__all__ = ["open_aside"]

SLICE = 0.05


class _Opening:
    """One capture being opened; whoever comes last, the opener or the one that gave up, releases it."""

    def __init__(self, opener: Callable[[], cv2.VideoCapture], what: str, turn: threading.Lock | None) -> None:
        self.done = threading.Event()
        self.capture: cv2.VideoCapture | None = None
        self.error: BaseException | None = None
        self._opener = opener
        self._what = what
        self._turn: AbstractContextManager[object] = turn or nullcontext()
        self._abandoned = False
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="opening", daemon=True).start()

    def _run(self) -> None:
        capture = error = None
        with self._turn:
            given_up = self._abandoned
            if given_up:
                return
            try:
                with CALLS.noted(f"open {self._what}"):
                    capture = self._opener()
            except BaseException as caught:  # handed to whoever waits
                error = caught
        with self._lock:
            self.capture, self.error = capture, error
            abandoned = self._abandoned
            self.done.set()
        if abandoned:
            self._release(capture)

    def result(self) -> cv2.VideoCapture:
        if self.capture is None:
            raise self.error or SourceError("nothing was opened")
        return self.capture

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            capture = self.capture
        self._release(capture)

    def _release(self, capture: cv2.VideoCapture | None) -> None:
        if capture is not None:
            with CALLS.noted(f"release {self._what}"):
                capture.release()


def open_aside(
    opener: Callable[[], cv2.VideoCapture], stop: threading.Event, what: str, turn: threading.Lock | None = None
) -> cv2.VideoCapture:
    """Open a capture that takes seconds in C.

    Args:
        opener: opens it; has to end by itself, in a time of its own. A supervisor sees one that does not.
        stop: gives up waiting; the capture is released when its opener returns.
        what: is opened, for people; without passwords.
        turn: held while it is opened, where OpenCV opens one at a time: the wait for others is no call that lasts.

    Returns:
        What the opener returned, open or not.

    Raises:
        SourceError: ``stop`` was set.
    """
    opening = _Opening(opener, what, turn)
    while not opening.done.wait(SLICE):
        if stop.is_set():
            opening.abandon()
            raise SourceError("stopped")
    return opening.result()
