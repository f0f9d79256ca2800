"""Print a comparison as a table, its images as rows with the answers side by side, or both as JSON lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from .. import console
from ..console import ABSENT, make_table, percent, print_json, show_table
from ..foreign_text import printable
from ..frame import Frame
from .answers import Answers, ComparedModel

ROW_GAP = "  "
MAX_LABEL_WIDTH = 24  # terminal cells
PERCENT_WIDTH = 8  # terminal cells
MAX_NAMED_COLUMNS = 5  # with more models, the columns of agreement have numbers for names
MAX_TABLE_WIDTH = 10_000  # terminal cells, more than any table has
MAX_NAME_WIDTH = 10  # terminal cells; with a longer name they have numbers too
TIMES = "ms: median, decoded frame to probabilities, an image's share of its batch of {}"


class TextReport:
    """This report prints a table at the end, and before it, where ``listed``, a row an image.

    A row has ``=`` or ``≠``, each model's first label and probability, the true class and the source.
    """

    def __init__(self, models: Sequence[ComparedModel], *, listed: bool) -> None:
        self._models = models
        self._listed = listed
        self._started = False
        labels = models[0].classifier.labels
        self._label = min(MAX_LABEL_WIDTH, max(cell_len(printable(label)) for label in labels))

    def image(self, answers: Answers | Frame) -> None:
        """Print one image's row; a frame that could not be read has none, as it is named on stderr."""
        if not self._listed or isinstance(answers, Frame):
            return
        if not self._started:
            self._print_heads()
            self._started = True
        cells = []
        for prediction in answers.predictions.values():
            style = "" if answers.truth is None else "green" if prediction.label == answers.truth else "bold red"
            label = _fitted(Text(printable(prediction.label), style), self._label)
            cells.append(label.append(f"{percent(prediction.probability):>{PERCENT_WIDTH}}", "cyan"))
        mark = Text("=", "dim") if answers.same else Text("≠", "bold yellow")
        frame = answers.frame
        source = f"{frame.source} #{frame.index}" if frame.video else frame.source
        self._print_row(mark, cells, Text(printable(answers.truth or ABSENT)), source)

    def end(self, figures: Mapping[str, Any]) -> None:
        """Print the table and the path of the contact sheet; ``figures`` are those of the tally and the JSON."""
        if self._started:
            console.stdout.print()
        _print_table(self._models, figures)
        if figures["sheet"]:
            console.stdout.print(f"where they differ: {figures['sheet']}", soft_wrap=True, markup=False)

    def _print_heads(self) -> None:
        names = [printable(model.name) for model in self._models]
        short = _short_names(names, self._label + PERCENT_WIDTH)
        if short != names:
            for number, name in zip(short, names, strict=True):
                console.stdout.print(Text(f"{number}  {name}", "dim"), soft_wrap=True)
        self._print_row(Text(" "), [Text(name, "dim") for name in short], Text("true", "dim"), "source")

    def _print_row(self, mark: Text, cells: Sequence[Text], truth: Text, source: str) -> None:
        width = self._label + PERCENT_WIDTH
        columns = [mark, *(_fitted(cell, width) for cell in cells), _fitted(truth, max(self._label, 4))]
        console.stdout.print(Text(ROW_GAP).join([*columns, Text(printable(source))]), soft_wrap=True)


class JsonReport:
    """This report writes a JSON object a line: each image, then ``comparison`` with all figures."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k

    def image(self, answers: Answers | Frame) -> None:
        """Write one image's line; ``true`` is null where its class is not known; times are in milliseconds."""
        if isinstance(answers, Frame):
            print_json({**_where(answers), "error": answers.error})
            return
        found: dict[str, Any] = {}
        for name, prediction in answers.predictions.items():
            top = prediction.top(self._top_k)
            found[name] = {
                "labels": [label for label, _ in top],
                "probabilities": [float(f"{probability:.7g}") for _, probability in top],
                "preprocess_ms": round(prediction.preprocess_ms, 3),
                "inference_ms": round(prediction.inference_ms, 3),
            }
        print_json({**_where(answers.frame), "true": answers.truth, "same": answers.same, "answers": found})

    def end(self, figures: Mapping[str, Any]) -> None:
        """Write the last line, with the figures of the comparison."""
        print_json({"comparison": figures})


def _where(frame: Frame) -> dict[str, Any]:
    return {"source": frame.source, "frame": frame.index}


def _fitted(text: Text, width: int) -> Text:
    """Return the text padded to a width, and cut to it only on a terminal."""
    if cell_len(text.plain) < width or console.stdout.is_terminal:
        text.truncate(width, overflow="ellipsis", pad=True)
    return text


def _short_names(names: Sequence[str], max_width: int) -> list[str]:
    """Return the models' names, or numbers instead where a name has more than ``max_width`` cells."""
    return list(names) if max(map(cell_len, names)) <= max_width else [str(n) for n in range(1, len(names) + 1)]


def _print_table(models: Sequence[ComparedModel], figures: Mapping[str, Any]) -> None:
    names = [printable(model.name) for model in models]
    short = _short_names(names, MAX_NAME_WIDTH if len(models) <= MAX_NAMED_COLUMNS else 0)
    keys = {"": short, "model": names} if short != names else {"model": names}
    rows = figures["models"]
    columns: dict[str, list[str]] = {"variant": [_variant(model) for model in models]}
    if figures["labelled"]:
        columns["accuracy"] = [_share(row["accuracy"]) for row in rows]
        columns["only it\nis right"] = [str(row["only_right"]) for row in rows]
    columns["ms an\nimage"] = [ABSENT if row["p50_ms"] is None else f"{row['p50_ms']:.2f}" for row in rows]
    columns["MB"] = [f"{row['bytes'] / 1e6:.2f}" for row in rows]
    agreement = {
        f"same as\n{head}": [_share(row["agreement"][name] if row["name"] != name else None) for row in rows]
        for head, name in zip(short, (model.name for model in models), strict=True)
    }
    caption = f"{_caption(figures)}\n{TIMES.format(figures['batch'])}"
    whole = _table(figures, {**keys, **columns, **agreement}, caption)
    unlimited = console.stdout.options.update(max_width=MAX_TABLE_WIDTH)
    if console.stdout.is_terminal and console.stdout.measure(whole, options=unlimited).maximum > console.stdout.width:
        show_table(_table(figures, {**keys, **columns}, ""))
        whole = _table(figures, {**keys, **agreement}, caption)
    show_table(whole)


def _table(figures: Mapping[str, Any], columns: Mapping[str, Sequence[str]], caption: str) -> Table:
    rows = zip(*columns.values(), strict=True)
    return make_table(_title(figures), columns, rows, text=("model", "variant"), caption=caption)


def _variant(model: ComparedModel) -> str:
    variant = model.classifier.selection.variant
    return f"{variant.precision} {variant.target}"


def _share(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.1f} %"


def _title(figures: Mapping[str, Any]) -> str:
    images = f"{figures['images']} images"
    if not figures["labelled"]:
        return f"{images}, their classes not known"
    if figures["labelled"] == figures["images"]:
        return f"{images} in class folders"
    return f"{images}, of which {figures['labelled']} are in folders named after a class"


def _caption(figures: Mapping[str, Any]) -> str:
    if not figures["images"]:
        return "no image could be read"
    text = f"all agree on {figures['same']} of {figures['images']} images"
    if figures["same_right"] is None:
        return text
    if figures["labelled"] == figures["images"]:
        return f"{text}, and are right on {figures['same_right']} of these"
    return f"{text}; all are right on {figures['same_right']} of the {figures['labelled']} whose class is known"
