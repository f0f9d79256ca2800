"""Tells on stderr how a live run stands, in lines that stay in place or one a minute in a log, and each fault."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Collection

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from .. import console
from ..console import percent
from ..foreign_text import printable
from ..sources.events import Event
from .sink import Result, Sink, SourceStatus, Status

REFRESH_EVERY = 0.25  # seconds between two updates of the lines on a terminal
LOG_EVERY = 60.0  # seconds between lines where stderr is a file or a journal
REPEAT_EVERY = 60.0  # seconds for which the same fault of the same source is not printed again
MAX_LINES = 12  # sources that have a line on a terminal
UNREADABLE = "frame unreadable"  # in a label's place: the label before is not what this frame shows


class StatusLine(Sink):
    """This sink shows each source's label, rates, ages and counts, and names files that could not be read.

    A fault that repeats within a minute is printed once, and counted in the status and in the next line about it: a
    broken camera must not fill a journal.
    """

    def __init__(self, screen: Console | None = None, *, live: Collection[str] = ()) -> None:
        """Write to a console; None: to stderr's. ``live`` has the names of cameras and streams, as their frames do."""
        self._streams = frozenset(live)
        self._console = console.status if screen is None else screen
        self._labels: dict[str, tuple[str, float | None]] = {}
        self._printed: dict[tuple[str, str], float] = {}  # when the last fault of a source and kind was printed
        self._repeated = Counter[tuple[str, str]]()  # those of it that were not printed since
        self._status: Status | None = None
        self._logged = time.monotonic()
        self._refreshed = 0.0
        self._live: Live | None = None
        if self._console.is_terminal:
            # rows for the same terminal go above these lines; those for a pipe must not end up on stderr
            both = sys.stdout.isatty()
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=both, redirect_stderr=both
            )

    def write(self, result: Result) -> None:
        """Remember what this source shows; name a file that could not be read on stderr, as a run of files does."""
        prediction = result.prediction
        if prediction is None and result.frame.name not in self._streams:  # a stream's faults are events
            self._print(f"unreadable: {result.frame.name}: {result.frame.error}", "yellow")
        why = UNREADABLE if result.frame.image is None else str(result.frame.error).partition(":")[0]
        (label, *_) = result.ranked(1) or [(why, None)]
        self._labels[self._kept_as(result.frame.name, result.frame.region)] = label

    def event(self, event: Event) -> None:
        """Print an event, or only count it where the same kind of the same source was printed a moment ago."""
        key, now = (event.source, event.kind), time.monotonic()
        if now - self._printed.get(key, -math.inf) < REPEAT_EVERY:
            self._repeated[key] += 1
            return
        self._printed[key] = now
        clock = time.strftime("%H:%M:%S", time.localtime(event.timestamp))
        parts = [event.source, event.detail, "" if event.seconds is None else f"after {event.seconds:.1f} s"]
        repeated = self._repeated.pop(key, 0)
        more = f" ({repeated} more since the last one was told)" if repeated else ""
        text = f"{clock} {event.kind}: {': '.join(part for part in parts if part)}{more}"
        self._print(text, "green" if event.kind == "reconnected" else "yellow")

    def status(self, status: Status) -> None:
        """Keep the status for the next ``poll`` to show; in a log, write it once a minute."""
        self._status = status
        if self._live is None and time.monotonic() - self._logged >= LOG_EVERY:
            self._log(status)

    def poll(self) -> bool:
        """Bring the lines up to date; return False: nobody can ask this sink to stop."""
        now = time.monotonic()
        if now - self._refreshed < REFRESH_EVERY:
            return False
        self._refreshed = now
        if self._live is not None and self._status is not None:
            self._live.start()  # does nothing but the first time, when frames flow: it hides the cursor
            self._live.update(self._render(self._status), refresh=True)
        return False

    def close(self) -> None:
        """Take the lines away, and print the last status as one line."""
        if self._live is not None:
            self._live.stop()
        if self._status is not None:
            self._log(self._status)

    def _kept_as(self, name: str, region: str) -> str:
        """Return a stream's name, and of files the region's alone: their line shows the file that came last."""
        return name if name in self._streams else region

    def _log(self, status: Status) -> None:
        self._logged = time.monotonic()
        sources = [f"{printable(source.name)}: {_counts(source)}" for source in status.sources]
        text = "; ".join([_totals(status), *sources])
        self._print(text, "dim", len(text))

    def _print(self, text: str, style: str, most: int = console.MAX_MESSAGE) -> None:
        self._console.print(printable(text, most), style=style, markup=False, soft_wrap=True)

    def _render(self, status: Status) -> RenderableType:
        grid = Grid.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=2, style="bold")
        grid.add_column(no_wrap=True, justify="right", min_width=7, style="bold cyan")
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=4, style="dim")
        grid.expand = True
        for source in status.sources[:MAX_LINES]:
            label, probability = self._labels.get(self._kept_as(source.name, source.region), ("", None))
            percentage = "" if probability is None or not source.flowing else percent(probability)
            state = Text(printable(label)) if source.flowing else Text("no frames", style="yellow")
            grid.add_row(Text(printable(source.name)), state, percentage, _counts(source))
        hidden = len(status.sources) - MAX_LINES
        rest = [Text(f"and {hidden} more sources", style="dim")] if hidden > 0 else []
        return Group(grid, *rest, Text(_totals(status), no_wrap=True, overflow="ellipsis"))


def _totals(status: Status) -> str:
    hours, seconds = divmod(round(status.seconds), 3600)
    parts = [
        f"{hours}:{seconds // 60:02d}:{seconds % 60:02d}",
        f"{status.fps:.1f} results/s",
        f"age {status.age_p50_ms:.0f} ms (99 % under {status.age_p99_ms:.0f})",
        f"inference {status.inference_ms:.1f} ms",
    ]
    if status.faults:
        parts.append("faults: " + ", ".join(f"{kind} {number}" for kind, number in status.faults.items()))
    return "  ".join(parts)


def _counts(source: SourceStatus) -> str:
    parts = [f"{source.classified} classified", f"{source.dropped} dropped"]
    parts += [f"{source.unreadable} unreadable"] if source.unreadable else []
    parts += [f"{source.reconnects} reconnects"] if source.reconnects else []
    return ", ".join(parts)
