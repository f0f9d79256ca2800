"""What goes wrong while frames flow: counted, and told to whoever listens."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["KINDS", "Event", "Events", "Kind"]

Kind = Literal[
    "lost",  # a camera or stream ended, or could not be opened
    "stalled",  # open, and no frame for too long
    "reconnected",  # frames flow again; ``seconds`` since the last one
    "corrupt",  # a frame that could not be decoded
    "resized",  # another resolution from here on
    "disk-full",  # --save or --snapshots could not write; it stopped, classification goes on
    "memory-short",  # a frame was given up for want of memory
    "engine-failed",  # one batch failed and its frames were given up
    "engine-hung",  # the worker was replaced by the supervisor
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Event:
    """One fault, or its end.

    Attributes:
        kind: see ``Kind``.
        source: the camera or stream, as it was named; empty where it concerns all of them.
        detail: one line for people: what was expected, what was found.
        timestamp: Unix seconds.
        seconds: how long it lasted, where that is known.
    """

    kind: Kind
    source: str
    detail: str
    timestamp: float
    seconds: float | None = None


class Events:
    """Counts events and passes each on; safe to use from any thread, listeners are called on the reporting one."""

    def __init__(self, listener: Callable[[Event], None] | None = None) -> None:
        self._listeners: tuple[Callable[[Event], None], ...] = () if listener is None else (listener,)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Kind]] = Counter()

    def report(self, kind: Kind, source: str = "", detail: str = "", *, seconds: float | None = None) -> None:
        """Count one event and tell the listeners."""
        event = Event(kind, source, detail, time.time(), seconds)
        with self._lock:
            self._counts[source, kind] += 1
        for listener in self._listeners:
            listener(event)

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """Tell one more listener from now on."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Callable[[Event], None]) -> None:
        """Tell a listener no more."""
        with self._lock:
            self._listeners = tuple(item for item in self._listeners if item != listener)

    def count(self, kind: Kind, source: str | None = None) -> int:
        """How many there were of a kind, of one source or (None) of all."""
        with self._lock:
            return sum(
                number for (name, found), number in self._counts.items() if found == kind and source in (None, name)
            )

    def counts(self) -> dict[Kind, int]:
        """How many there were of each kind that there was."""
        return {kind: number for kind in KINDS if (number := self.count(kind))}
