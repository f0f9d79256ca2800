"""Print a comparison as a table, its images as rows with the answers side by side, or both as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isnan
from typing import Any, Protocol

import typer
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from .. import console
from ..console import ABSENT, make_table, percent, printable, show_table
from ..frame import Frame
from .models import Model
from .tally import Answers, Comparison

__all__ = ["Json", "Listing", "Rows", "Silent", "comparison_table"]

MB = 1e6
GAP = "  "
MAX_LABEL = 24  # terminal cells
PROBABILITY = 8  # terminal cells
MANY = 6  # with so many models, the columns of agreement have numbers for names
LONG = 10  # terminal cells; with a longer name they have numbers too
TIMES = "ms: median, decoded frame to probabilities, an image's share of its batch of {}"


class Listing(Protocol):
    """This protocol takes the images one by one, and at the end the comparison."""

    def image(self, answers: Answers) -> None:
        """Take one image that was classified."""

    def error(self, frame: Frame) -> None:
        """Take one file that could not be read."""

    def end(self, comparison: Comparison, sheet: str | None) -> None:
        """Take the comparison of all images; ``sheet`` is the contact sheet's path, None if none was written."""


class Silent:
    """This listing prints no rows, only the table at the end."""

    def __init__(self, models: Sequence[Model], batch: int) -> None:
        self._models = models
        self._batch = batch

    def image(self, answers: Answers) -> None:
        """Print nothing."""

    def error(self, frame: Frame) -> None:
        """Print nothing, as the file is named on stderr."""

    def end(self, comparison: Comparison, sheet: str | None) -> None:
        """Print the table and the path of the contact sheet."""
        show_table(comparison_table(self._models, comparison, self._batch))
        if sheet:
            console.stdout.print(f"where they differ: {sheet}", soft_wrap=True, markup=False)


class Rows(Silent):
    """This listing prints a row an image: ``=`` or ``≠``, each model's first label and probability, truth, source."""

    def __init__(self, models: Sequence[Model], batch: int) -> None:
        super().__init__(models, batch)
        labels = models[0].classifier.labels
        self._label = min(MAX_LABEL, max(cell_len(printable(label)) for label in labels))
        self._names = _short_names(models, self._label + PROBABILITY)
        self._started = False

    def image(self, answers: Answers) -> None:
        """Print one row, under the column heads if it is the first."""
        if not self._started:
            heads = [Text(name, "dim") for name in self._names]
            for model, short in zip(self._models, self._names, strict=True):
                if short != (name := printable(model.name)):
                    console.stdout.print(Text(f"{short}  {name}", "dim"), soft_wrap=True)
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
        self._print(mark, cells, Text(printable(answers.truth or ABSENT)), source)

    def end(self, comparison: Comparison, sheet: str | None) -> None:
        """Print the table below the rows."""
        if self._started:
            console.stdout.print()
        super().end(comparison, sheet)

    def _print(self, mark: Text, cells: Sequence[Text], truth: Text, source: str) -> None:
        width = self._label + PROBABILITY
        columns = [mark, *(self._fit(cell, width) for cell in cells), self._fit(truth, max(self._label, 4))]
        console.stdout.print(Text(GAP).join([*columns, Text(printable(source))]), soft_wrap=True)

    def _fit(self, text: Text, width: int) -> Text:
        """Return the text padded to a width, and cut to it only on a terminal."""
        if cell_len(text.plain) < width or console.stdout.is_terminal:
            text.truncate(width, overflow="ellipsis", pad=True)
        return text


class Json:
    """This listing writes a JSON object a line: each image, then ``comparison`` with all figures."""

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
        """Write the last line, with the figures of the comparison."""
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
    """Return a table of a row a model: variant, accuracy, ms an image, size, and agreement with each other model."""
    names = [printable(model.name) for model in models]
    short = _short_names(models, LONG if len(models) < MANY else 0)
    numbered = short != names
    figures = ("accuracy", "only it\nis right") if comparison.labelled else ()
    keys = ("", "model") if numbered else ("model",)
    heads = (*keys, "", *figures, "ms an\nimage", "MB", *(f"same as\n{name}" for name in short))
    caption = f"{_caption(comparison)}\n{TIMES.format(batch)}"
    table = make_table(_title(comparison), heads, text=("model", ""), caption=caption)
    for model, name, key in zip(models, names, short, strict=True):
        table.add_row(key, *((name,) if numbered else ()), *_cells(model, models, comparison))
    return table


def _short_names(models: Sequence[Model], most: int) -> list[str]:
    """Return the models' names, or numbers instead where a name has more than ``most`` cells."""
    names = [printable(model.name) for model in models]
    return names if max(map(cell_len, names)) <= most else [str(number) for number in range(1, len(names) + 1)]


def _title(comparison: Comparison) -> str:
    images = f"{comparison.images} images"
    if not comparison.labelled:
        return f"{images}, their classes not known"
    if comparison.labelled == comparison.images:
        return f"{images} in class folders"
    return f"{images}, of which {comparison.labelled} are in folders named after a class"


def _caption(comparison: Comparison) -> str:
    if not comparison.images:
        return "no image could be read"
    text = f"all agree on {comparison.same} of {comparison.images} images"
    if comparison.same_right is None:
        return text
    if comparison.labelled == comparison.images:
        return f"{text}, and are right on {comparison.same_right} of these"
    return f"{text}; all are right on {comparison.same_right} of the {comparison.labelled} whose class is known"


def _cells(model: Model, models: Sequence[Model], comparison: Comparison) -> list[str]:
    figures, variant = comparison.models[model.name], model.classifier.selection.variant
    cells = [f"{variant.precision} {variant.target}"]
    if comparison.labelled:
        cells += [_percent(comparison.accuracy(model.name)), str(figures.alone)]
    time = ABSENT if isnan(figures.p50_ms) else f"{figures.p50_ms:.2f}"
    same = [_percent(None if other is model else figures.agreement[other.name]) for other in models]
    return [*cells, time, f"{model.size / MB:.2f}", *same]


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.1f} %"


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
    """Return a rounded number, or None for NaN, which JSON does not have."""
    return None if isnan(value) else round(value, 4)


def _where(frame: Frame) -> dict[str, Any]:
    return {"source": frame.source, "frame": frame.index}


def _line(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content))
