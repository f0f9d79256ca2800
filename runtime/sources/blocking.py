"""Watch calls into drivers and decoders, which can't be interrupted, and wait no longer for them than one wants to.

``BLOCKING_CALLS`` knows which such call is under way and since when, so that a supervisor sees one that never returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Generic, TypeVar

from ..errors import SourceError

if TYPE_CHECKING:  # the supervisor uses this module without OpenCV
    from ..opencv import cv2

__all__ = ["BLOCKING_CALLS", "CALL_PREFIX", "BlockingCalls", "open_capture", "run_aside"]

CALL_PREFIX = "call"  # in front of the descriptions that ``busy`` gives
POLL_INTERVAL = 0.05  # seconds between two looks at ``stop``

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
        """Note one call for as long as the context lasts.

        Args:
            what: a description for messages, as in ``open /dev/video0``, without passwords.
        """
        key = object()
        with self._lock:
            self._running[key] = (what, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                del self._running[key]

    def busy(self) -> Mapping[str, float]:
        """Return each call's seconds so far, by ``call`` and its description; of several alike the longest."""
        now = time.monotonic()
        with self._lock:
            running = list(self._running.values())
        return {f"{CALL_PREFIX} {what}": now - since for what, since in sorted(running, key=lambda item: -item[1])}


BLOCKING_CALLS = BlockingCalls()
"""Those of this process, which hangs as a whole."""


class _Aside(Generic[T]):
    """This is one call on a thread; if it is abandoned, caller or thread releases its result, whoever comes last."""

    def __init__(
        self, function: Callable[[], T], release: Callable[[T], object], turn: AbstractContextManager[object]
    ) -> None:
        self.done = threading.Event()
        self.results: list[T] = []
        self.error: BaseException | None = None
        self._function = function
        self._release = release
        self._turn = turn
        self._abandoned = False
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="opening", daemon=True).start()

    def _run(self) -> None:
        results: list[T] = []
        with self._turn:
            given_up = self._abandoned
            if given_up:
                return
            try:
                results.append(self._function())
            except BaseException as error:  # handed to whoever waits
                self.error = error
        with self._lock:
            self.results = results
            abandoned = self._abandoned
            self.done.set()
        if abandoned:
            self._release_all(results)

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            results = self.results
        self._release_all(results)

    def _release_all(self, results: list[T]) -> None:
        for result in results:
            self._release(result)


def run_aside(
    function: Callable[[], T],
    release: Callable[[T], object],
    stop: threading.Event,
    *,
    deadline: float | None = None,
    turn: threading.Lock | None = None,
) -> T:
    """Call a function that takes seconds in C on a thread of its own, so that whoever stops does not wait for it.

    Args:
        function: opens something, and has to end by itself.
        release: gives back what was opened, where nobody waits for it any more.
        stop: an event that, once set, ends the wait.
        deadline: the ``time.monotonic()`` at which the wait ends; None: never.
        turn: a lock that is held during the call; waiting for it is part of the wait.

    Returns:
        What the function returned; what it raised is raised here.

    Raises:
        SourceError: ``stop`` was set.
        TimeoutError: the deadline passed.
    """
    aside = _Aside(function, release, turn or nullcontext())
    while not aside.done.wait(POLL_INTERVAL):
        late = deadline is not None and time.monotonic() > deadline
        if stop.is_set() or late:
            aside.abandon()
            raise SourceError("stopped") if stop.is_set() else TimeoutError("not done in time")
    if aside.error is not None:
        raise aside.error
    return aside.results[0]


def open_capture(
    opener: Callable[[], cv2.VideoCapture], stop: threading.Event, what: str, turn: threading.Lock | None = None
) -> cv2.VideoCapture:
    """Open a capture aside; a supervisor sees a call that does not end.

    Args:
        opener: opens the capture.
        stop: an event that, once set, ends the wait; the capture is then released when its opener returns.
        what: the name of what is opened, for messages and without passwords.
        turn: a lock held while the capture is opened, where OpenCV opens one at a time: waiting for others is then not
            taken for a call that hangs.

    Returns:
        The capture that the opener returned, open or not.

    Raises:
        SourceError: ``stop`` was set.
    """

    def opened() -> cv2.VideoCapture:
        with BLOCKING_CALLS.noted(f"open {what}"):
            return opener()

    def release(capture: cv2.VideoCapture) -> None:
        with BLOCKING_CALLS.noted(f"release {what}"):
            capture.release()

    return run_aside(opened, release, stop, turn=turn)
