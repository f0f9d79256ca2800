"""Writes results to stdout, as JSON lines for machines or as rows of a table for people, and counts those of files."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.text import Text

from .. import console
from ..console import percent, say
from ..foreign_text import printable
from ..sources.events import Event
from .sink import Answer, Result, Sink, SourceStatus, Status

if TYPE_CHECKING:
    from ..classifier import Prediction

BAR_DELAY = 2.0  # seconds before a progress bar appears
COLUMN_GAP = "  "
MAX_LABEL_WIDTH = 24  # cells; the label column is as wide as the longest label, up to this
MAX_SOURCE_WIDTH = 60
TIME_WIDTH = 8


class JsonLines(Sink):
    """This sink writes each result, and of a live run each event, as one JSON object on a line of its own, and flushes.

    ``docs/live.md`` says what each field means. Those of captures and batches are of live runs alone; ``smoothed_s``,
    where it is there, says that the probabilities are an average over about so many seconds. With ``answers`` each
    result has ``answer``, null where it is unknown, and of a live run ``since``.
    """

    def __init__(
        self,
        top_k: int = 5,
        stream: TextIO | None = None,
        *,
        live: bool = True,
        newest: bool = False,
        answers: bool = False,
    ) -> None:
        """Write lines with ``top_k`` labels to a stream; None is stdout.

        ``live`` says that a camera or stream is among the sources; ``newest`` that frames of files may be dropped: each
        line then has ``dropped``, else only once one was.
        """
        self._top_k = top_k
        self._stream = stream
        self._live = live
        self._newest = newest
        self._answers = answers

    def write(self, result: Result) -> None:
        """Write one result; OSError says that the stream can't be written, BrokenPipeError that the reader is gone."""
        line: dict[str, object] = {"source": result.frame.source}
        line.update({"region": result.frame.region} if result.frame.region else {})
        line["frame"] = result.frame.index
        if self._live and result.frame.timestamp:
            line["captured"] = round(result.frame.timestamp, 6)
        if self._live and result.frame.captured:
            line["age_ms"] = round(result.age_ms, 3)
        if result.prediction is None:
            line["error"] = result.frame.error
        else:
            line.update(self._answer(result.answer) if self._answers and result.answer else {})
            line.update(self._prediction(result.prediction))
            line.update({} if result.smoothed_s is None else {"smoothed_s": result.smoothed_s})
            line.update({"batch": result.batch} if self._live else {})
        if self._live and result.frame.video:
            line.update(dropped=result.dropped, reconnects=result.reconnects)
        elif not self._live and (result.dropped or self._newest):
            line["dropped"] = result.dropped
        self._line(line)

    def event(self, event: Event) -> None:
        """Write one event of a live run; those of a run of files are told on stderr alone."""
        if self._live:
            self._line(
                {
                    "event": event.kind,
                    "source": event.source,
                    "detail": event.detail,
                    "time": round(event.timestamp, 6),
                    "seconds": None if event.seconds is None else round(event.seconds, 3),
                }
            )

    def _answer(self, answer: Answer) -> dict[str, object]:
        since = {"since": round(answer.since, 6)} if self._live else {}
        return {"answer": answer.label if answer.known else None, **since}

    def _prediction(self, prediction: Prediction) -> dict[str, object]:
        top = prediction.top(self._top_k)
        return {
            "labels": [label for label, _ in top],
            "probabilities": [float(f"{probability:.7g}") for _, probability in top],
            "preprocess_ms": round(prediction.preprocess_ms, 3),
            "inference_ms": round(prediction.inference_ms, 3),
        }

    def _line(self, line: dict[str, object]) -> None:
        stream = sys.stdout if self._stream is None else self._stream  # a status line may have replaced it
        stream.write(json.dumps(line) + "\n")
        stream.flush()


class ResultTable(Sink):
    """This sink writes a row for each result: source, answer, its probability, milliseconds, the next labels.

    On a terminal a row is one line of its width; elsewhere nothing is cut off. Errors are told on stderr, not here.
    """

    def __init__(
        self, top_k: int, labels: tuple[str, ...], screen: Console | None = None, *, live: bool = False
    ) -> None:
        """Write rows with ``top_k`` of the model's labels to a console; None is stdout's.

        ``live`` says that a status line is shown; frames of cameras, streams and videos are then left to it on a
        terminal, where thirty rows a second could not be read.
        """
        self._top_k = top_k
        self._console = console.stdout if screen is None else screen
        self._images_only = live and self._console.is_terminal
        self._label = min(MAX_LABEL_WIDTH, max(map(cell_len, (*labels, "label"))))
        left = self._console.width - self._label - 2 * TIME_WIDTH - 7 - 5 * len(COLUMN_GAP)
        self._source = max(12, min(MAX_SOURCE_WIDTH, left // 2 if top_k > 1 else left))
        self._next = max(0, left - self._source) if top_k > 1 else 0
        self._started = False

    def write(self, result: Result) -> None:
        """Write one row, under the column heads if it is the first."""
        frame, prediction = result.frame, result.prediction
        if prediction is None or (frame.video and self._images_only):
            return
        if not self._started:
            self._row(["source", "label", "prob.", "prep. ms", "inf. ms", "next" if self._next else ""], ["dim"] * 6)
            self._started = True
        (label, probability), *others = result.ranked(self._top_k)
        source = f"{frame.name} #{frame.index}" if frame.video else frame.name
        following = ", ".join(f"{printable(name)} {percent(value)}" for name, value in others if value is not None)
        times = [f"{prediction.preprocess_ms:.2f}", f"{prediction.inference_ms:.2f}"]
        cells = [
            printable(source),
            printable(label),
            "" if probability is None else percent(probability),
            *times,
            following,
        ]
        self._row(cells, ["", "bold", "bold cyan", "", "", "dim"])

    def _row(self, cells: list[str], styles: list[str]) -> None:
        cut = self._console.is_terminal
        source, label, probability, preprocess, inference, following = cells
        fitted = [
            _fit(source, self._source, cut=cut, keep_end=True),
            _fit(label, self._label, cut=cut),
            f"{probability:>7}",
            f"{preprocess:>{TIME_WIDTH}}",
            f"{inference:>{TIME_WIDTH}}",
            _fit(following, self._next, cut=cut),
        ]
        line = Text(COLUMN_GAP).join(Text(text, style) for text, style in zip(fitted, styles, strict=True))
        line.rstrip()
        self._console.print(line, soft_wrap=True)


class FileProgress(Sink):
    """This sink names unreadable files on stderr, shows a bar where a run takes long, and sums it up.

    The bar appears once ``BAR_DELAY`` is over; rows that scroll by on the same terminal are progress enough.
    """

    def __init__(self, total: int | None) -> None:
        """Begin to measure the time; ``total`` is how many frames there will be, or None where nobody knows."""
        self._sources: tuple[SourceStatus, ...] = ()
        self._start = time.monotonic()
        self._wanted = console.status.is_terminal and not console.stdout.is_terminal
        self._bar = console.progress(unit="images")
        self._task = self._bar.add_task("classifying", total=total)

    def write(self, result: Result) -> None:
        """Advance the bar; name a frame that could not be read on stderr."""
        if result.prediction is None:
            say(f"unreadable: {result.frame.name}: {result.frame.error}", style="yellow")
        self._bar.advance(self._task)
        if self._wanted and not self._bar.live.is_started and time.monotonic() - self._start > BAR_DELAY:
            self._bar.start()

    def event(self, event: Event) -> None:
        """Name a fault on stderr."""
        say(f"{event.kind}: {event.detail}", style="yellow")

    def status(self, status: Status) -> None:
        """Keep the counts for the summary."""
        self._sources = status.sources

    def close(self) -> None:
        """Take the bar away."""
        if self._bar.live.is_started:
            self._bar.stop()

    def summary(self) -> bool:
        """Say on stderr how many frames were classified and dropped, how fast; return whether all could be read."""
        seconds = time.monotonic() - self._start
        classified = sum(source.classified for source in self._sources)
        dropped = sum(source.dropped for source in self._sources)
        unreadable = sum(source.unreadable for source in self._sources)
        counts = f"{classified} classified" + (f", {dropped} dropped" if dropped else "")
        say(f"{counts} in {seconds:.1f} s, {classified / max(seconds, 1e-9):.1f} images/s, reading included")
        if unreadable:
            say(f"{unreadable} could not be read, named above", style="bold yellow")
        return not unreadable


def _fit(text: str, width: int, *, cut: bool, keep_end: bool = False) -> str:
    """Pad a text to a width in terminal cells and, where ``cut`` asks for it, cut it to that at its start or end."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    if not cut:
        return text
    if keep_end:
        reverse = chop_cells(text[::-1], max(width - 1, 1))[0]
        return set_cell_size("…" + reverse[::-1], width)
    return set_cell_size(set_cell_size(text, width - 1) + "…", width)
