"""Open captures, which can't be interrupted, on a thread of their own, so that whoever stops does not wait for them."""

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
    """This is one capture being opened; if it is abandoned, opener or waiter releases it, whoever comes last."""

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
    """Open a capture whose opening takes seconds in C.

    Args:
        opener: opens the capture, and has to end by itself. A supervisor sees one that does not.
        stop: an event that, once set, ends the wait; the capture is then released when its opener returns.
        what: the name of what is opened, for messages and without passwords.
        turn: a lock held while the capture is opened, where OpenCV opens one at a time: waiting for others is then not
            taken for a call that hangs.

    Returns:
        The capture that the opener returned, open or not.

    Raises:
        SourceError: ``stop`` was set.
    """
    opening = _Opening(opener, what, turn)
    while not opening.done.wait(SLICE):
        if stop.is_set():
            opening.abandon()
            raise SourceError("stopped")
    return opening.result()
