"""Note calls into drivers and decoders while they last, so that one that never returns is seen from outside.

Waiting is no call, be it for a camera that is gone, for the next try to reach it, or for a turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["CALL", "CALLS", "Calls"]

CALL = "call"  # the prefix of the names that ``busy`` gives


class Calls:
    """This registry holds the calls that a process's threads have not returned from; it is thread-safe."""

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
        return {f"{CALL} {what}": now - since for what, since in sorted(running, key=lambda item: -item[1])}


CALLS = Calls()
"""Those of this process: it hangs as a whole."""
