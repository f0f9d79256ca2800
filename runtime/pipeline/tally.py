"""Keeps the counts that a heartbeat carries to the supervisor, which shows them in ``systemctl status``."""

from __future__ import annotations

from collections.abc import Mapping

from ..outputs.sink import Sink, Status

__all__ = ["Tally"]


class Tally(Sink):
    """This sink remembers the last status."""

    def __init__(self) -> None:
        self._last: Status | None = None

    def counts(self) -> Mapping[str, float]:
        """Return the frames of all sources so far and the results a second, by name; any thread may call it."""
        status = self._last
        if status is None:
            return {}
        return {
            "results/s": round(status.fps, 1),
            "classified": sum(source.classified for source in status.sources),
            "dropped": sum(source.dropped for source in status.sources),
            "reconnects": sum(source.reconnects for source in status.sources),
        }

    def status(self, status: Status) -> None:
        """Remember this status in place of the one before."""
        self._last = status
