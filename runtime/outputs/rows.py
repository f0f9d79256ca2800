"""Shows results of files: a row or a JSON line each, unreadable files named on stderr, a bar where it takes long."""

from __future__ import annotations

import time

from .. import console
from ..console import say
from ..sources.events import Event
from .result import Result, Status
from .sink import Sink

__all__ = ["PATIENCE", "Rows"]

PATIENCE = 2.0  # seconds before a progress bar appears


class Rows:
    """This ``LiveSink`` passes results on to a ``Sink``, counts them and shows a progress bar.

    The bar appears once ``PATIENCE`` is over; rows that scroll by on the same terminal are progress enough.

    Args:
        sink: where rows go.
        total: how many frames there will be, or None where nobody knows.

    Attributes:
        classified, unreadable: how many frames of each kind there were so far.
        dropped: how many frames were given up, as of the last status.
    """

    def __init__(self, sink: Sink, total: int | None) -> None:
        self.classified = self.unreadable = self.dropped = 0
        self._sink = sink
        self._start = time.monotonic()
        self._wanted = console.status.is_terminal and not console.stdout.is_terminal
        self._bar = console.progress(unit="images")
        self._task = self._bar.add_task("classifying", total=total)

    def write(self, result: Result) -> None:
        """Write one row; name a frame that could not be read on stderr as well."""
        self._sink.write(result.frame, result.prediction, result.dropped)
        if result.prediction is None:
            self.unreadable += 1
            say(f"unreadable: {result.frame.source}: {result.frame.error}", style="yellow")
        else:
            self.classified += 1
        self._bar.advance(self._task)
        if self._wanted and not self._bar.live.is_started and time.monotonic() - self._start > PATIENCE:
            self._bar.start()

    def event(self, event: Event) -> None:
        """Name a fault on stderr."""
        say(f"{event.kind}: {event.detail}", style="yellow")

    def status(self, status: Status) -> None:
        """Remember how many frames were dropped, which no row tells."""
        self.dropped = sum(source.dropped for source in status.sources)

    def poll(self) -> bool:
        """Return False: nobody can ask this sink to stop."""
        return False

    def close(self) -> None:
        """Take the bar away."""
        if self._bar.live.is_started:
            self._bar.stop()

    def summary(self) -> None:
        """Say on stderr how many were classified and dropped, how fast, and how many could not be read."""
        seconds = time.monotonic() - self._start
        rate = self.classified / max(seconds, 1e-9)
        counts = f"{self.classified} classified" + (f", {self.dropped} dropped" if self.dropped else "")
        say(f"{counts} in {seconds:.1f} s, {rate:.1f} images/s, reading included")
        if self.unreadable:
            say(f"{self.unreadable} could not be read, named above", style="bold yellow")
