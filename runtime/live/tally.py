"""The counts that a heartbeat carries to the supervisor, and that to ``systemctl status``."""

from __future__ import annotations

from collections.abc import Mapping

from .events import Event
from .result import Result, Status

__all__ = ["Tally"]


class Tally:
    """Remembers the last status; a ``LiveSink``."""

    def __init__(self) -> None:
        self._last: Status | None = None

    def counts(self) -> Mapping[str, float]:
        """Frames of all sources so far, and results a second; for any thread."""
        status = self._last
        if status is None:
            return {}
        return {
            "results/s": round(status.fps, 1),
            "classified": sum(source.classified for source in status.sources),
            "dropped": sum(source.dropped for source in status.sources),
            "reconnects": sum(source.reconnects for source in status.sources),
        }

    def write(self, result: Result) -> None:
        """Nothing: a status counts."""

    def event(self, event: Event) -> None:
        """Nothing: a status counts."""

    def status(self, status: Status) -> None:
        """Remember it."""
        self._last = status

    def poll(self) -> bool:
        """Never asks to stop."""
        return False

    def close(self) -> None:
        """Nothing: the last status stays."""
