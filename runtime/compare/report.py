"""The comparison as one table, images side by side as rows, and both as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import typer
from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from .. import terminal
from ..frame import Frame
from ..live.outputs.draw import percent
from ..sinks import printable
from .models import Model
from .tally import Answers, Comparison

__all__ = ["Json", "Listing", "Rows", "Silent", "comparison_table"]

MB = 1e6
GAP = "  "
MAX_LABEL = 24  # cells
PROBABILITY = 8  # cells
NONE = "–"
TIMES = "ms: median from decoded frame to probabilities, an image's share of its batch of {}"


class Listing(Protocol):
    """Takes images one by one, then the whole."""

    def image(self, answers: Answers) -> None:
        """One image that was classified."""

    def error(self, frame: Frame) -> None:
        """One file that could not be read."""

    def end(self, comparison: Comparison, sheet: str | None) -> None:
        """All images were given; ``sheet`` is the contact sheet's path."""


class Silent:
    """No rows; the table at the end."""

    def __init__(self, models: Sequence[Model], batch: int) -> None:
        self._models = models
        self._batch = batch

    def image(self, answers: Answers) -> None:
        """Nothing."""

    def error(self, frame: Frame) -> None:
        """Nothing: it is named on stderr."""

    def end(self, comparison: Comparison, sheet: str | None) -> None:
        """Print the table, and where the contact sheet is."""
        terminal.stdout.print(comparison_table(self._models, comparison, self._batch))
        if sheet:
            terminal.stdout.print(f"where they differ: {sheet}", soft_wrap=True, markup=False)


class Rows(Silent):
    """A row for each image: ``=`` or ``≠``, each model's first label and its probability, the true one, the source."""

    def __init__(self, models: Sequence[Model], batch: int) -> None:
        super().__init__(models, batch)
        labels = models[0].classifier.labels
        self._label = min(MAX_LABEL, max(cell_len(printable(label)) for label in labels))
        self._started = False

    def image(self, answers: Answers) -> None:
        """Print one row, under the column heads if it is the first."""
        if not self._started:
            heads = [Text(model.name, "dim") for model in self._models]
            self._print(Text(" "), heads, Text("true", "dim"), "source")
            self._started = True
        cells = []
        for prediction in answers.predictions.values():
            style = "" if answers.truth is None else "green" if prediction.label == answers.truth else "bold red"
            label = self._fit(Text(printable(prediction.label), style), self._label)
            cells.append(label.append(f"{percent(prediction.probability):>{PROBABILITY}}", "cyan"))
        mark = Text("=", "dim") if answers.same else Text("≠", "bold yellow")
        frame = answers.frame
        source = f"{frame.source} #{frame.index}" if frame.video else frame.source
        self._print(mark, cells, Text(printable(answers.truth or NONE)), source)

    def end(self, comparison: Comparison, sheet: str | None) -> None:
        """Print the table below the rows."""
        if self._started:
            terminal.stdout.print()
        super().end(comparison, sheet)

    def _print(self, mark: Text, cells: Sequence[Text], truth: Text, source: str) -> None:
        width = self._label + PROBABILITY
        columns = [mark, *(self._fit(cell, width) for cell in cells), self._fit(truth, max(self._label, 4))]
        terminal.stdout.print(Text(GAP).join([*columns, Text(printable(source))]), soft_wrap=True)

    def _fit(self, text: Text, width: int) -> Text:
        """Padded; cut to the width on a terminal alone."""
        if cell_len(text.plain) < width or terminal.stdout.is_terminal:
            text.truncate(width, overflow="ellipsis", pad=True)
        return text


class Json:
    """A JSON object a line: each image, then ``comparison`` with all figures."""

    def __init__(self, models: Sequence[Model], batch: int, top_k: int) -> None:
        self._models = models
        self._batch = batch
        self._top_k = top_k

    def image(self, answers: Answers) -> None:
        """Write one image's line; ``true`` is null where its class is not known; times are in milliseconds."""
        found: dict[str, Any] = {}
        for name, prediction in answers.predictions.items():
            top = prediction.top(self._top_k)
            found[name] = {
                "labels": [label for label, _ in top],
                "probabilities": [float(f"{probability:.7g}") for _, probability in top],
                "preprocess_ms": round(prediction.preprocess_ms, 3),
                "inference_ms": round(prediction.inference_ms, 3),
            }
        _line({**_where(answers.frame), "true": answers.truth, "same": answers.same, "answers": found})

    def error(self, frame: Frame) -> None:
        """Write the line of a file that could not be read."""
        _line({**_where(frame), "error": frame.error})

    def end(self, comparison: Comparison, sheet: str | None) -> None:
        """Write the last line."""
        content = {
            "images": comparison.images,
            "labelled": comparison.labelled,
            "unreadable": comparison.unreadable,
            "same": comparison.same,
            "same_right": comparison.same_right,
            "batch": self._batch,
            "sheet": sheet,
            "models": [_record(model, comparison) for model in self._models],
        }
        _line({"comparison": content})


def comparison_table(models: Sequence[Model], comparison: Comparison, batch: int) -> Table:
    """One row a model: what it is, accuracy, agreement with each other model, milliseconds an image, size."""
    table = Table(title=_title(comparison), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    names = ["", "accuracy", "only it\nis right"] if comparison.labelled else [""]
    names += [f"same as\n{printable(model.name)}" for model in models]
    table.add_column("model", overflow="fold")
    for name in (*names, "ms an\nimage", "MB"):
        table.add_column(Text(name), justify="right" if name else "left", no_wrap=True)
    for model in models:
        table.add_row(*_cells(model, models, comparison))
    table.caption, table.caption_justify = f"{_caption(comparison)}\n{TIMES.format(batch)}", "left"
    return table


def _title(comparison: Comparison) -> str:
    images = f"{comparison.images} images"
    if not comparison.labelled:
        return f"{images}, their classes not known"
    if comparison.labelled == comparison.images:
        return f"{images} in class folders"
    return f"{images}, of which {comparison.labelled} are in folders named after a class"


def _caption(comparison: Comparison) -> str:
    text = f"all agree on {comparison.same} of {comparison.images} images"
    if comparison.same_right is None:
        return text
    if comparison.labelled == comparison.images:
        return f"{text}, and are right on {comparison.same_right} of these"
    return f"{text}; all are right on {comparison.same_right} of the {comparison.labelled} whose class is known"


def _cells(model: Model, models: Sequence[Model], comparison: Comparison) -> list[Text]:
    figures, variant = comparison.models[model.name], model.classifier.selection.variant
    cells = [printable(model.name), f"{variant.precision} {variant.target}"]
    accuracy = comparison.accuracy(model.name)
    if accuracy is not None:
        cells += [f"{100 * accuracy:.1f} %", str(figures.alone)]
    cells += [NONE if other is model else f"{100 * figures.agreement[other.name]:.1f} %" for other in models]
    return [Text(text) for text in (*cells, f"{figures.p50_ms:.2f}", f"{model.size / MB:.2f}")]


def _record(model: Model, comparison: Comparison) -> dict[str, Any]:
    figures, selection = comparison.models[model.name], model.classifier.selection
    return {
        "name": model.name,
        "bundle": model.path,
        "branches": model.classifier.spec.branches,
        "variant": selection.variant.name,
        "device": selection.backend.device,
        "bytes": model.size,
        "accuracy": comparison.accuracy(model.name),
        "right": figures.right,
        "only_right": figures.alone,
        "agreement": dict(figures.agreement),
        "p50_ms": _number(figures.p50_ms),
        "p90_ms": _number(figures.p90_ms),
    }


def _number(value: float) -> float | None:
    """NaN is not JSON."""
    return round(value, 4) if value == value else None  # noqa: PLR0124


def _where(frame: Frame) -> dict[str, Any]:
    return {"source": frame.source, "frame": frame.index}


def _line(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content))
