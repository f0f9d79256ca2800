"""Decides when to take a live source's next frames, so that they reach the engine just as it becomes free."""

from __future__ import annotations

import threading
import time

__all__ = ["Pace"]

HANDOVER = 1e-3  # seconds that a batch takes from one thread to the next, on a busy machine
WEIGHT = 0.2  # weight of the newest time in a running mean


class Pace:
    """Follows the batches between preprocessing and the engine, and how long each stage takes.

    A frame that is taken the moment its mailbox has one is old when a slow engine gets to it. So frames are taken when
    the engine is idle, or will be by the time they are preprocessed. Any thread may use it.

    Args:
        max_wait: for how long a batch may wait for more frames, seconds; frames are taken that much earlier.
    """

    def __init__(self, max_wait: float = 0.0) -> None:
        self._max_wait = max_wait
        self._changed = threading.Condition()
        self._batches = 0  # batches that were handed over and are not finished
        self._started = 0.0  # when the engine began with the oldest of them; 0 before that
        self._engine = self._preparing = 0.0  # running means, seconds a batch
        self._closed = False

    def wait(self) -> None:
        """Return when it is time to take frames."""
        with self._changed:
            while self._batches and not self._closed:
                remaining = self._remaining() if self._started and self._engine else None
                if remaining is not None and remaining <= 0:
                    return
                self._changed.wait(remaining)

    def hand_over(self, preparing: float) -> None:
        """Note that a batch goes to the engine, and that preprocessing it took ``preparing`` seconds."""
        with self._changed:
            self._batches += 1
            self._preparing = _mean(self._preparing, preparing)

    def start(self) -> None:
        """Note that the engine begins with a batch."""
        with self._changed:
            self._started = time.monotonic()
            self._changed.notify()

    def finish(self, seconds: float | None) -> None:
        """Note that the engine is free again after ``seconds``; None where the batch had no row for it."""
        with self._changed:
            self._batches -= 1
            self._started = 0.0
            if seconds is not None:
                self._engine = _mean(self._engine, seconds)
            self._changed.notify()

    def close(self) -> None:
        """End every wait, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _remaining(self) -> float:
        ahead = self._preparing + HANDOVER + self._max_wait
        return self._started + self._engine - ahead - time.monotonic()


def _mean(before: float, now: float) -> float:
    return before + WEIGHT * (now - before) if before else now
