"""Writes live results as rows for people."""

from __future__ import annotations

from rich.console import Console

from .. import console
from ..sources.events import Event
from .result import Result, Status
from .sink import Table

__all__ = ["LiveTable"]


class LiveTable:
    """This ``LiveSink`` writes a row for each result.

    On a terminal, where thirty rows a second could not be read, frames of a camera, stream or video are left to the
    status line; single images keep their rows.
    """

    def __init__(self, labels: tuple[str, ...], top_k: int = 5, screen: Console | None = None) -> None:
        """Write rows with the ``top_k`` of the model's ``labels`` to a console; None: to stdout's."""
        self._console = console.stdout if screen is None else screen
        self._table = Table(top_k, labels, self._console)

    def write(self, result: Result) -> None:
        """Write one row; errors are left to stderr."""
        if not (result.frame.video and self._console.is_terminal):
            self._table.write(result.frame, result.prediction)

    def event(self, event: Event) -> None:
        """Do nothing: the status line tells it on stderr."""

    def status(self, status: Status) -> None:
        """Do nothing: the status line tells it on stderr."""

    def poll(self) -> bool:
        """Return False: nobody can ask this sink to stop."""
        return False

    def close(self) -> None:
        """Do nothing: rows are written as they come."""
