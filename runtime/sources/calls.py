"""Calls into drivers and decoders, noted while they last: one that never comes back is seen from outside.

Waiting is no call: for a camera that is gone, for the next try to reach it, for a turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["CALL", "CALLS", "Calls"]

CALL = "call"  # what the names that ``busy`` gives begin with


class Calls:
    """What the threads of a process have called and not come back from; safe to use from any of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[object, tuple[str, float]] = {}

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Note one call for as long as the context lasts.

        Args:
            what: for people, ``open /dev/video0``; without passwords.
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
        """For how many seconds each call has lasted, by ``call`` and what it is; of several alike the longest."""
        now = time.monotonic()
        with self._lock:
            running = list(self._running.values())
        return {f"{CALL} {what}": now - since for what, since in sorted(running, key=lambda item: -item[1])}


CALLS = Calls()
"""Those of this process: it hangs as a whole."""
