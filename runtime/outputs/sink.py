"""Sinks write predictions as they come: as rows of a table for people, or as JSON lines for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import typer
from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.text import Text

from ..console import printable

if TYPE_CHECKING:  # so that the command's help needs neither OpenCV nor an engine
    from ..classifier import Prediction
    from ..frame import Frame

__all__ = ["JsonLines", "Sink", "Table"]

GAP = "  "
MAX_LABEL = 24  # cells; the label column is as wide as the longest label, up to this
MAX_SOURCE = 60
MILLISECONDS = 8  # cells


class Sink(Protocol):
    """A sink takes results one by one, in their order."""

    def write(self, frame: Frame, prediction: Prediction | None, dropped: int = 0) -> None:
        """Write one result, or the frame's error where there is no prediction.

        Args:
            frame: the frame that was read.
            prediction: what the model says about the frame's image.
            dropped: how many frames before this one were given up.
        """


class JsonLines:
    """Writes one JSON object a line to stdout, flushed: source, frame, and the top k labels or the error.

    Args:
        top_k: how many labels a line has.
        newest: whether frames may be dropped; every line then has ``dropped``, how many were, else only if any were.
    """

    def __init__(self, top_k: int, *, newest: bool = False) -> None:
        self._top_k = top_k
        self._newest = newest

    def write(self, frame: Frame, prediction: Prediction | None, dropped: int = 0) -> None:
        """Write one line; times are in milliseconds."""
        line: dict[str, object] = {"source": frame.source, "frame": frame.index}
        if prediction is None:
            line["error"] = frame.error
        else:
            top = prediction.top(self._top_k)
            line["labels"] = [label for label, _ in top]
            line["probabilities"] = [float(f"{probability:.7g}") for _, probability in top]
            line["preprocess_ms"] = round(prediction.preprocess_ms, 3)
            line["inference_ms"] = round(prediction.inference_ms, 3)
        if dropped or self._newest:
            line["dropped"] = dropped
        typer.echo(json.dumps(line))


class Table:
    """Writes rows of fixed columns: source, best label, its probability, the next labels, milliseconds.

    On a terminal a row is one line of its width; elsewhere nothing is cut off. Errors are told on stderr, not here.
    """

    def __init__(self, top_k: int, labels: tuple[str, ...], console: Console) -> None:
        self._top_k = top_k
        self._console = console
        self._label = min(MAX_LABEL, max(map(cell_len, (*labels, "label"))))
        left = console.width - self._label - 2 * MILLISECONDS - 7 - 5 * len(GAP)
        self._source = max(12, min(MAX_SOURCE, left // 2 if top_k > 1 else left))
        self._next = max(0, left - self._source) if top_k > 1 else 0
        self._started = False

    def write(self, frame: Frame, prediction: Prediction | None, dropped: int = 0) -> None:  # noqa: ARG002
        """Write one row, under the column heads if it is the first."""
        if prediction is None:
            return
        if not self._started:
            self._row(["source", "label", "prob.", "next" if self._next else "", "prep. ms", "inf. ms"], ["dim"] * 6)
            self._started = True
        (label, probability), *others = prediction.top(self._top_k)
        source = f"{frame.source} #{frame.index}" if frame.video else frame.source
        following = ", ".join(f"{printable(name)} {_percent(value)}" for name, value in others)
        times = [f"{prediction.preprocess_ms:.2f}", f"{prediction.inference_ms:.2f}"]
        cells = [printable(source), printable(label), _percent(probability), following, *times]
        self._row(cells, ["", "bold", "bold cyan", "dim", "", ""])

    def _row(self, cells: list[str], styles: list[str]) -> None:
        cut = self._console.is_terminal
        source, label, probability, following, preprocess, inference = cells
        fitted = [
            _fit(source, self._source, cut=cut, keep_end=True),
            _fit(label, self._label, cut=cut),
            f"{probability:>7}",
            f"{preprocess:>{MILLISECONDS}}",
            f"{inference:>{MILLISECONDS}}",
            _fit(following, self._next, cut=cut),
        ]
        order = [0, 1, 2, 4, 5, 3]
        line = Text(GAP).join(Text(text, style=styles[place]) for text, place in zip(fitted, order, strict=True))
        line.rstrip()
        self._console.print(line, soft_wrap=True)


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


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
