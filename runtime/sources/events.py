"""Count what goes wrong while frames flow, and tell it to whoever listens."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import SourceError
from ..foreign_text import MAX_SHOWN, bounded

MAX_PARTS = 500  # frames or parts of a stream a second: above every camera, and below what takes a core
MAX_FAULTS = 100  # of them that can't be decoded or have another size, each of which is an event and a line of output

Kind = Literal[
    "lost",  # a camera or stream ended, or could not be opened
    "stalled",  # a source is open and has given no frame for too long
    "reconnected",  # frames flow again, ``seconds`` after the last one
    "corrupt",  # a frame could not be decoded
    "resized",  # a source's frames have another resolution from here on
    "region-outside",  # a region is not in the pictures since they have another resolution, and is left out
    "disk-full",  # --save or --snapshots could not write; it stopped, classification goes on
    "memory-short",  # a frame was given up for want of memory
    "engine-failed",  # one batch failed and its frames were given up
    "engine-hung",  # the worker was replaced by the supervisor
]


@dataclass(frozen=True)
class Event:
    """This class describes one fault, or the end of one.

    ``source`` is the camera or stream as it was named, empty where the event concerns all of them; ``detail`` one line
    for people: what was expected, what was found. ``timestamp`` is when it was reported, Unix seconds, and ``seconds``
    how long the fault lasted, None where that is not known.
    """

    kind: Kind
    source: str
    detail: str
    timestamp: float
    seconds: float | None = None


class FloodLimit:
    """This class counts what one source gives, and raises a SourceError at more than ``most`` within a second."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._since, self._number = time.monotonic(), 0

    def count(self, number: int = 1) -> None:
        """Count so many more; ``what`` they are stands in the error."""
        now = time.monotonic()
        if now - self._since >= 1:
            self._since, self._number = now, 0
        self._number += number
        if self._number > self._most:
            raise SourceError(f"expected at most {self._most} {self._what} a second from a source, found more")


class Events:
    """This class counts events and passes each on to its listeners, on the thread that reports; it is thread-safe."""

    def __init__(self, listener: Callable[[Event], None] | None = None) -> None:
        self._listeners: tuple[Callable[[Event], None], ...] = () if listener is None else (listener,)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Kind]] = Counter()

    def report(self, kind: Kind, source: str = "", detail: str = "", *, seconds: float | None = None) -> None:
        """Count one event and tell the listeners."""
        event = Event(kind, source, bounded(detail, MAX_SHOWN), time.time(), seconds)
        with self._lock:
            self._counts[source, kind] += 1
        for listener in self._listeners:
            listener(event)

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with every event from now on, beside the listeners that there are."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Callable[[Event], None]) -> None:
        """Stop calling ``listener``; do nothing where it is not subscribed."""
        with self._lock:
            self._listeners = tuple(item for item in self._listeners if item != listener)

    def count(self, kind: Kind, source: str | None = None) -> int:
        """Return how many events of a kind there were, from one source or (None) from all of them."""
        with self._lock:
            return sum(
                number for (name, found), number in self._counts.items() if found == kind and source in (None, name)
            )

    def counts(self) -> dict[Kind, int]:
        """Return the number of events of each kind; kinds that never came are left out."""
        return {kind: number for kind in get_args(Kind) if (number := self.count(kind))}
