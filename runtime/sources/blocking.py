"""Watch calls into drivers and decoders, which can't be interrupted, and wait no longer for them than one wants to.

``BLOCKING_CALLS`` knows which such call is under way and since when, so that a supervisor sees one that never returns.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ..background import start_in_background
from ..errors import SourceError

if TYPE_CHECKING:  # the supervisor uses this module without OpenCV
    from ..opencv import cv2

POLL_INTERVAL = 0.05  # seconds between two looks at ``stop``
READ_WAIT = 1.0  # seconds that one read of a live source waits at most; a stop is noticed by then
# held while FFmpeg opens anything. OpenCV has such a lock too; a wait for this one is not taken for a call that hangs,
# and files are opened without the streams' options: an MPEG-TS whose rate is not looked for announces twice its frames
OPENING_TURN = threading.Lock()

T = TypeVar("T")


class BlockingCalls:
    """This registry holds the calls that a process's threads have not returned from; it is thread-safe.

    Waiting is no call, be it for a camera that is gone, for the next try to reach it, or for a turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[object, tuple[str, float]] = {}

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Note one call for as long as the context lasts, described as in ``open /dev/video0``, without passwords."""
        key = object()
        with self._lock:
            self._running[key] = (what, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                del self._running[key]

    def busy(self) -> Mapping[str, float]:
        """Return each call's seconds so far, by its description; of several alike the longest."""
        now = time.monotonic()
        with self._lock:
            running = list(self._running.values())
        return {what: now - since for what, since in sorted(running, key=lambda item: -item[1])}


BLOCKING_CALLS = BlockingCalls()
"""Those of this process, which hangs as a whole."""


def run_aside(
    function: Callable[[], T],
    release: Callable[[T], object],
    stop: threading.Event,
    *,
    deadline: float = math.inf,
    turn: threading.Lock | None = None,
) -> T:
    """Call a function that takes seconds in C on a thread of its own, so that whoever stops does not wait for it.

    What the function returned is returned, and what it raised is raised. It opens something, and has to end by itself;
    ``release`` gives that back where nobody waits for it any more. Setting ``stop`` ends the wait, and so does the
    ``deadline``, a ``time.monotonic()``. ``turn`` is held during the call, where OpenCV opens one at a time; waiting
    for it is no call.

    Raises:
        SourceError: ``stop`` was set.
        TimeoutError: the deadline passed.
    """
    future = start_in_background(function, "opening", turn)
    while not wait([future], POLL_INTERVAL).done:
        if stop.is_set() or time.monotonic() > deadline:
            if not future.cancel():
                future.add_done_callback(lambda late: None if late.exception() else release(late.result()))
            raise SourceError("stopped") if stop.is_set() else TimeoutError("not done in time")
    return future.result()


def open_capture(
    opener: Callable[[], cv2.VideoCapture], stop: threading.Event, what: str, turn: threading.Lock | None = None
) -> cv2.VideoCapture:
    """Open a capture as ``run_aside`` does, and note the call as ``open`` and ``what``, a name without passwords.

    The capture is returned as the opener made it, open or not.
    """

    def open_noted() -> cv2.VideoCapture:
        with BLOCKING_CALLS.noted(f"open {what}"):
            return opener()

    def release(capture: cv2.VideoCapture) -> None:
        with BLOCKING_CALLS.noted(f"release {what}"):
            capture.release()

    return run_aside(open_noted, release, stop, turn=turn)
