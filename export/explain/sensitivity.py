"""Measures how sensitive each layer is to INT8, by what its quantization alone does to the logits.

The exporter takes the most sensitive layers out of INT8 where a gate refuses the variant; ``hybrid-export
--sensitivity`` reports all of them as a table, a plot, CSV and JSON.
"""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from ...calib import read_batches
from ...runtime.backends.base import Backend
from ...runtime.backends.onnxruntime import OnnxRuntimeSimulated
from ...runtime.storage import replacing, write_json, write_text
from ..bundle.bundle_writer import bundle_lock, writing
from ..bundle.report_folder import check_folder
from ..convert.fp32_graph import serialize
from ..convert.graph_reading import branch_of
from ..export_request import MIN_IMAGES, ExportRequest
from ..quantize.artifact_graph import ArtifactGraphs
from ..quantize.prepared_model import prepare
from ..step_log import StepLog

Tensor = npt.NDArray[np.float32]
Batches = Sequence[dict[str, Tensor]]

SENSITIVITY_IMAGES = 32
# Xception's blocks are groups; in other CNNs, and in the recurrent branch, each layer is a group of its own
BLOCK_NAME = re.compile(r"cnn/block\d+")


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer in INT8, with everything else in FP32, does to the logits.

    ``layer`` names a convolution, a matrix product, or a recurrent layer with its products, and ``group`` its block;
    ``parameters`` counts its weights. ``error`` is the RMS difference of the logits / their RMS, ``max_error`` the
    largest |difference| / the largest |logit|, ``agreement`` the share of images whose first label stays, 0 to 1.
    """

    layer: str
    group: str
    error: float
    max_error: float
    agreement: float
    parameters: int


def group_of(layer: str) -> str:
    """Return the block that a layer belongs to; layers are given back a block at a time."""
    found = BLOCK_NAME.match(layer)
    return found[0] if found else layer


def measure_sensitivity(
    graphs: ArtifactGraphs,
    paths: Iterable[Path],
    *,
    on_layer: Callable[[int], None] = lambda _: None,
) -> list[LayerSensitivity]:
    """Quantize one layer after the other, as for TensorRT, simulated on the CPU, and compare with FP32.

    The ranges of ``graphs`` must be set. ``paths`` are calibration images, so that the gate's stay unseen;
    ``on_layer`` is called after each layer with 1. The results are in the order of the graph.
    """
    spec = graphs.spec
    batches = list(read_batches(paths, spec))
    form = "unrolled" if graphs.builder.parts.recurrent else "none"
    evened = graphs.evened(form)
    with tempfile.TemporaryDirectory(prefix="hybrid-edge-") as folder:
        file = Path(folder) / "layer.onnx"

        def run(quantized: Sequence[str]) -> Tensor:
            file.write_bytes(serialize(graphs.quantize_in_fp32(evened, quantized)))
            with OnnxRuntimeSimulated(file, spec) as backend:
                return _logits(backend, batches)

        expected = run(())
        found = []
        for layer, parameters in graphs.parameters(form).items():
            found.append(_compare(layer, parameters, expected, run((layer,))))
            on_layer(1)
    return found


def ranked_groups(layers: Iterable[LayerSensitivity]) -> list[tuple[str, ...]]:
    """Group the layers, the most sensitive group first: by the sum of the squares of its layers' errors."""
    groups: dict[str, list[LayerSensitivity]] = {}
    for item in layers:
        groups.setdefault(item.group, []).append(item)
    order = sorted(groups.values(), key=lambda items: -sum(item.error**2 for item in items))
    return [tuple(item.layer for item in items) for items in order]


def as_records(layers: Iterable[LayerSensitivity]) -> list[dict[str, str | float | int]]:
    """Turn the results into records for JSON and CSV, one dict of plain values for each layer."""
    return [asdict(item) for item in layers]


def _logits(backend: Backend, batches: Batches) -> Tensor:
    return np.concatenate([backend.run(tensors).logits for tensors in batches])


def _compare(layer: str, parameters: int, expected: Tensor, found: Tensor) -> LayerSensitivity:
    difference = found.astype(np.float64) - expected
    scale = np.maximum(np.abs(expected).max(), np.finfo(np.float32).tiny)
    rms = np.maximum(np.sqrt(np.square(expected, dtype=np.float64).mean()), np.finfo(np.float32).tiny)
    return LayerSensitivity(
        layer=layer,
        group=group_of(layer),
        error=float(np.sqrt(np.square(difference).mean()) / rms),
        max_error=float(np.abs(difference).max() / scale),
        agreement=float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        parameters=parameters,
    )


MAX_ROWS = 25
BRANCH_COLORS = {"cnn": "#2f6fb3", "rnn": "#c0562c"}
BRANCH_NAMES = {"cnn": "CNN", "rnn": "recurrent branch"}
NAME_SCOPE = re.compile(r"_1/")  # TensorFlow adds it behind each layer's name
BAR_HEIGHT = 0.19  # inches of a bar
PLOT_WIDTH = 9.0


@dataclass(frozen=True)
class SensitivityReport:
    """What ``rank_layers`` measured and wrote.

    ``layers`` are in the order of the graph, measured on so many ``images``; ``plot`` is the PNG and ``table`` the CSV,
    with the same as JSON beside it. ``stale`` is a sentence where BatchNorm's statistics are stale: then they, and no
    layer, are the cause; else None.
    """

    layers: tuple[LayerSensitivity, ...]
    images: int
    plot: Path
    table: Path
    stale: str | None


def rank_layers(request: ExportRequest, log: StepLog | None = None) -> SensitivityReport:
    """Measure how sensitive each layer is to INT8; write table and plot to the report's folder, and no bundle.

    INT8 must be among the precisions of the request's settings.

    Raises:
        CalibrationError: there is no image to calibrate on.
        BundleError: the folder can't be written.
        HybridEdgeError: preparing fails, as ``prepare`` describes it.
    """
    log = log or StepLog(quiet=True)
    with bundle_lock(request.out, lambda: log.say("another export writes here: waiting for it")):
        check_folder(request.report)
        return _rank(request, log)


def _rank(request: ExportRequest, log: StepLog) -> SensitivityReport:
    prepared = prepare(request, log)
    paths = prepared.calibration_paths[: max(SENSITIVITY_IMAGES, MIN_IMAGES)]
    form = "unrolled" if prepared.parts.recurrent else "none"
    count = len(prepared.graphs.parameters(form))
    with log.step(f"quantize {count} layers one by one, {len(paths)} images each", count) as advance:
        layers = measure_sensitivity(prepared.graphs, paths, on_layer=advance)
    folder = request.report
    with writing(folder):
        write_json(folder / "sensitivity.json", as_records(layers))
        write_text(folder / "sensitivity.csv", _csv(layers))
        _plot(folder / "sensitivity.png", layers, len(paths))
    stale = prepared.graphs.survey.stale
    return SensitivityReport(tuple(layers), len(paths), folder / "sensitivity.png", folder / "sensitivity.csv", stale)


def sensitivity_table(report: SensitivityReport) -> Table:
    """Make a table of the most sensitive layers, the most sensitive first."""
    title = f"each layer alone in INT8, {report.images} images: the change of the logits"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for name in ("RMS Δ\n/ RMS", "max |Δ|\n/ max", "same\nlabel", "weights"):
        table.add_column(name, justify="right")
    ordered = sorted(report.layers, key=lambda item: -item.error)
    for item in ordered[:MAX_ROWS]:
        numbers = (f"{item.error:.1e}", f"{item.max_error:.1e}", f"{item.agreement:.1%}", f"{item.parameters:,}")
        table.add_row(short_name(item.layer), *numbers)
    if len(ordered) > MAX_ROWS:
        table.caption = f"{len(ordered) - MAX_ROWS} less sensitive layers are in {report.table.name}"
    return table


def short_name(layer: str) -> str:
    """Shorten ``cnn/block2_sepconv1_1/separable_conv2d/pointwise`` to ``block2_sepconv1/pointwise``."""
    return NAME_SCOPE.sub("/", layer.removeprefix("cnn/").replace("/separable_conv2d/", "/"))


def _csv(layers: Sequence[LayerSensitivity]) -> str:
    buffer = io.StringIO()
    records = as_records(layers)
    writer = csv.DictWriter(buffer, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _plot(path: Path, layers: Sequence[LayerSensitivity], images: int) -> None:
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
