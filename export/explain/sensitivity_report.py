"""Reports the sensitivity of the layers to INT8 as a table, a plot, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from ...runtime.storage import replacing
from ..bundle.report_folder import check_folder
from ..bundle.writer import locked, writing
from ..convert.layers import branch_of
from ..images import MINIMUM
from ..quantize.prepare import prepare
from ..request import ExportRequest
from ..steps import Steps
from .sensitivity import SENSITIVITY_IMAGES, LayerSensitivity, as_records, measure_sensitivity

__all__ = ["SensitivityReport", "rank_layers", "sensitivity_table"]

MAX_ROWS = 25
BRANCH_COLORS = {"cnn": "#2f6fb3", "rnn": "#c0562c"}
BRANCH_NAMES = {"cnn": "CNN", "rnn": "recurrent branch"}
NAME_SCOPE = re.compile(r"_1/")  # TensorFlow adds it behind each layer's name
BAR_HEIGHT = 0.19  # inches of a bar
PLOT_WIDTH = 9.0


@dataclass(frozen=True)
class SensitivityReport:
    """What ``rank_layers`` measured and wrote.

    Attributes:
        layers: one result for each layer, in the order of the graph.
        images: how many images the layers were measured on.
        plot: the path of the PNG.
        table: the path of the CSV; the same content as JSON lies beside it.
        stale: a sentence where BatchNorm's statistics are stale: then they, and no layer, are the cause; else None.
    """

    layers: tuple[LayerSensitivity, ...]
    images: int
    plot: Path
    table: Path
    stale: str | None


def rank_layers(request: ExportRequest, steps: Steps | None = None) -> SensitivityReport:
    """Measure how sensitive each layer is to INT8; write table and plot to the report's folder, and no bundle.

    Args:
        request: what to rank, from ``make_request``, with INT8 among the settings' precisions.
        steps: reports what is being done.

    Raises:
        CalibrationError: there is no image to calibrate on.
        BundleError: the folder can't be written.
        HybridEdgeError: preparing fails, as ``prepare`` describes it.
    """
    steps = steps or Steps(quiet=True)
    with locked(request.out, lambda: steps.say("another export writes here: waiting for it")):
        check_folder(request.report)
        return _rank(request, steps)


def _rank(request: ExportRequest, steps: Steps) -> SensitivityReport:
    prepared = prepare(request, steps)
    paths = prepared.calibration_paths[: max(SENSITIVITY_IMAGES, MINIMUM)]
    form = "unrolled" if prepared.spec.uses_rnn else "none"
    count = len(prepared.lowering.parameters(form))
    with steps.step(f"quantize {count} layers one by one, {len(paths)} images each", count) as advance:
        layers = measure_sensitivity(prepared.lowering, paths, prepared.spec, on_layer=advance)
    folder = request.report
    with writing(folder):
        _write(folder / "sensitivity.json", json.dumps(as_records(layers), indent=2) + "\n")
        _write(folder / "sensitivity.csv", _csv(layers))
        _plot(folder / "sensitivity.png", layers, len(paths))
    stale = prepared.measurement.stale if prepared.measurement else None
    return SensitivityReport(tuple(layers), len(paths), folder / "sensitivity.png", folder / "sensitivity.csv", stale)


def sensitivity_table(report: SensitivityReport, shown: int = MAX_ROWS) -> Table:
    """Make a table of the ``shown`` most sensitive layers, the most sensitive first."""
    title = f"each layer alone in INT8, {report.images} images: the change of the logits"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for name in ("RMS Δ\n/ RMS", "max |Δ|\n/ max", "same\nlabel", "weights"):
        table.add_column(name, justify="right")
    ordered = sorted(report.layers, key=lambda item: -item.error)
    for item in ordered[:shown]:
        numbers = (f"{item.error:.1e}", f"{item.max_error:.1e}", f"{item.agreement:.1%}", f"{item.parameters:,}")
        table.add_row(short_name(item.layer), *numbers)
    if len(ordered) > shown:
        table.caption = f"{len(ordered) - shown} less sensitive layers are in {report.table.name}"
    return table


def short_name(layer: str) -> str:
    """Shorten ``cnn/block2_sepconv1_1/separable_conv2d/pointwise`` to ``block2_sepconv1/pointwise``."""
    return NAME_SCOPE.sub("/", layer.removeprefix("cnn/").replace("/separable_conv2d/", "/"))


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _csv(layers: Sequence[LayerSensitivity]) -> str:
    buffer = io.StringIO()
    records = as_records(layers)
    writer = csv.DictWriter(buffer, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _plot(path: Path, layers: Sequence[LayerSensitivity], images: int) -> None:
    """Draw one bar for each layer, in the order of the graph from above to below."""
    figure = Figure(figsize=(PLOT_WIDTH, 1.3 + BAR_HEIGHT * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    branches = [branch_of(item.layer) for item in layers]
    axis.barh(range(len(layers)), [item.error for item in layers], color=[BRANCH_COLORS[name] for name in branches])
    axis.set_yticks(range(len(layers)), [short_name(item.layer) for item in layers], fontsize=6.5, parse_math=False)
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set_xlabel("RMS difference of the logits / their RMS")
    axis.set_title(f"Each layer alone in INT8, {images} images", loc="left", fontsize=11, fontweight="bold")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    for name in dict.fromkeys(branches):
        axis.barh([0], [0], color=BRANCH_COLORS[name], label=BRANCH_NAMES[name])
    axis.legend(frameon=False, fontsize=8)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
