"""Prepares what every export begins with: the model, Keras's answers, its graphs, and what was measured on images.

Each stage is a frozen value that is made from those before it:

    .keras file ──► Keras model ─┬─► Reference: Keras's answers on the gate's images
                                 └─► GraphBuilder ──► FP32 graph ─┬─► ActivationSurvey ──► evened graph ──► Int8Ranges
                                                                  └─► ActivationPeaks, for FP16
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ...calib import (
    SURVEYED_IMAGES,
    Calibration,
    CalibrationImages,
    Peaks,
    calibrate,
    choose_images,
    measure_channels,
    measure_peaks,
    second_moments,
)
from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from ...train.model_file import load_model, weights_sha256
from ..adopt.adopting import adopt
from ..artifacts import ModelParts
from ..convert.fp32_graph import GraphBuilder, serialize
from ..convert.graph_reading import producers
from ..export_request import ExportRequest
from ..gates.reference import Reference
from ..step_log import StepLog
from .artifact_graph import ActivationSurvey, ArtifactGraphs, Int8Ranges
from .calibration_graph import choose_ranges, measured_parts, product_inputs
from .equalize import EvenedGraph, PixelGrid, channel_tensors
from .gpu_graph import ActivationPeaks, too_large_weights
from .int8_weights import Rounder
from .stale_batch_norm import batch_norm_outputs, stale_layers

RANGES = "ranges.npz"


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A model, ready to be written as artifacts; ``weights`` is the SHA-256 of its weights.

    ``images`` are those that were calibrated on, None for FP32 alone; ``calibration`` holds the statistics that INT8's
    ranges follow from, None without INT8. ``adoption`` says how a model that somebody else trained became ours.
    """

    weights: str
    reference: Reference
    graphs: ArtifactGraphs
    images: CalibrationImages | None = None
    calibration: Calibration | None = None
    adoption: Mapping[str, Any] | None = None

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        return self.graphs.spec

    @property
    def parts(self) -> ModelParts:
        """What the model is made of."""
        return self.graphs.builder.parts

    @property
    def calibration_paths(self) -> tuple[Path, ...]:
        """The images that were calibrated on."""
        return self.images.paths if self.images else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for every variant but FP32; the cause of a collapse comes before any of its symptoms."""
        stale = self.graphs.survey.stale
        return (*((stale,) if stale else ()), *(self.calibration.warnings if self.calibration else ()))

    def record(self) -> dict[str, Any] | None:
        """Return, for manifest and report, what the activations were measured on; None where they were not."""
        if self.images is None:
            return None
        layer, ratio = self.graphs.survey.worst_ratio
        content: dict[str, Any] = {
            "images": self.calibration.images if self.calibration else len(self.images.paths),
            "excluded_as_validation": self.images.excluded,
            "duplicates": self.images.duplicates,
            "furthest_batch_norm": {"layer": layer, "ratio": ratio},
        }
        if self.calibration is not None:
            binding = self.calibration.binding
            content |= {
                "images_sha256": binding.images,
                "weights_sha256": binding.weights,
                "preprocessing_sha256": binding.preprocessing,
                "graph_sha256": binding.graph,
            }
        return content


def prepare(request: ExportRequest, log: StepLog) -> PreparedModel:
    """Load the model, run Keras, convert, and measure what the precisions need."""
    model, spec, weights, adoption = _load(request, log)
    images, settings = request.images.images, request.settings
    with log.step(f"run Keras on {len(images)} images", len(images)) as advance:
        reference = Reference.of(model, spec, images, on_batch=advance)
    for reason in reference.skipped:
        log.say(f"passed over {reason}", style="yellow")
    with log.step("convert to ONNX"):
        graphs = ArtifactGraphs(GraphBuilder(model, spec), spec)
        prepared = PreparedModel(weights, reference, graphs, adoption=adoption)
    if not settings.needs_calibration:
        return prepared
    chosen = choose_images(request.calibration, validation=[image.path for image in reference.images])
    measurer = ActivationMeasurer(spec, chosen, tuple(image.path for image in reference.images), log)
    measurer.tell(chosen.skipped, len(request.calibration))
    survey, seen = measurer.survey(model, graphs.source("unrolled"))
    prepared = replace(prepared, graphs=replace(graphs, survey=survey), images=chosen)
    if "int8" in settings.precisions:
        prepared = _calibrated(prepared, measurer, request, log)
    if "fp16" in settings.precisions and prepared.graphs.half is None:
        half = measurer.half(graphs.source("unrolled"), seen)
        prepared = replace(prepared, graphs=replace(prepared.graphs, half=half))
    return prepared


def _load(request: ExportRequest, log: StepLog) -> tuple[KerasModel, ModelSpec, str, Mapping[str, Any] | None]:
    if request.adoption is not None:
        found = adopt(request.adoption, request.images.images, log)
        return found.model, found.spec, found.weights, found.record
    with log.step("load the Keras model"):
        model, spec = load_model(request.model)
        return model, spec, weights_sha256(model), None


def _calibrated(
    prepared: PreparedModel, measurer: ActivationMeasurer, request: ExportRequest, log: StepLog
) -> PreparedModel:
    evened, method = prepared.graphs.evened("unrolled"), request.settings.method
    graph = evened.graph
    calibration, peaks = measurer.quantized(evened, prepared.weights, request.report)
    half = None
    if "fp16" in request.settings.precisions:
        half = peaks_before(prepared.graphs.source("unrolled"), evened, peaks)
    rounder = Rounder(measurer.moments(graph))
    with log.step(f"choose ranges ({method})"):
        grid = PixelGrid.of(prepared.spec)
        signed, unsigned = (choose_ranges(calibration, graph, method, symmetric=i, grid=grid) for i in (True, False))
    largest = ActivationPeaks.of((peaks.largest,), too_large_weights(graph))
    graphs = replace(prepared.graphs, int8=Int8Ranges(signed, unsigned, largest, rounder), half=half)
    return replace(prepared, graphs=graphs, calibration=calibration)


def peaks_before(source: onnx.ModelProto, evened: EvenedGraph, peaks: Peaks) -> ActivationPeaks | None:
    """Return the largest activations of a graph, from those of the same graph after its channels were evened out.

    Each channel was divided by its factor, so that no image has to be run through the source too. What multiplying back
    rounds, 1e-7 of a value, decides nothing: FP16 rounds all up to 65,520 to its largest number. Without the peaks of
    the channels that have factors, or where the two graphs are not alike, the result is None.
    """
    factors = evened.factors
    if factors is None or not peaks.channels.keys() >= factors.keys():
        return None
    added = producers(evened.graph.graph.node).keys() - producers(source.graph.node).keys()
    largest = {name: peak for name, peak in peaks.largest.items() if name not in added}
    largest |= {name: float((peaks.channels[name] * factor).max()) for name, factor in factors.items()}
    return ActivationPeaks.of((largest,), too_large_weights(source))


@dataclass(frozen=True)
class ActivationMeasurer:
    """Runs graphs over the images to calibrate on and over the gate's, whose peaks count too."""

    spec: ModelSpec
    images: CalibrationImages
    gate_paths: tuple[Path, ...]
    log: StepLog

    def tell(self, skipped: Sequence[str], count: int) -> None:
        """Say in one line that some of so many images were passed over, and why the first was."""
        if skipped:
            said = f"passed over {len(skipped)} of {count} images; the first: {skipped[0]}"
            self.log.say(said, style="yellow")

    def survey(self, model: KerasModel, graph: onnx.ModelProto) -> tuple[ActivationSurvey, dict[str, float]]:
        """Measure the unrolled FP32 graph on some images: the channels' peaks, and how BatchNorm's statistics fit.

        With it come the largest activations on these images, by tensor.
        """
        paths = self.images.paths[:SURVEYED_IMAGES]
        with self.log.step(f"survey the activations on {len(paths)} images", len(paths)) as advance:
            found = measure_channels(measured_parts(graph), paths, self.spec, channel_tensors(graph), on_batch=advance)
        report = stale_layers(model, batch_norm_outputs(model, graph), found.statistics)
        seen = {name: item.peak for name, item in found.statistics.items()}
        return ActivationSurvey(found.peaks, found.means, report.warning, report.worst), seen

    def half(self, graph: onnx.ModelProto, seen: Mapping[str, float]) -> ActivationPeaks:
        """Measure the largest activations of the graph that FP16 is made from, over all images.

        ``seen`` are those of the images that ``survey`` ran on.
        """
        paths = (*self.images.paths[SURVEYED_IMAGES:], *self.gate_paths)
        peaks = self._peaks(measured_parts(graph), (), paths)
        return ActivationPeaks.of((seen, peaks.largest), too_large_weights(graph))

    def quantized(self, evened: EvenedGraph, weights: str, folder: Path) -> tuple[Calibration, Peaks]:
        """Calibrate the graph that INT8 is made from, or reuse the report's statistics; measure its peaks too.

        The graph is in FP32, the recurrent branch unrolled, its channels evened out. The report's folder keeps the
        statistics, which are reused for the same SHA-256 of the model's weights. The peaks are over the gate's images
        too; those of the channels that have factors are among them where the statistics were not reused.
        """
        parts, factors, count = measured_parts(evened.graph), evened.factors or {}, len(self.images.paths)
        with self.log.step(f"calibrate on {count} images", count) as advance:
            calibration = calibrate(
                parts, self.images, self.spec, weights, folder / RANGES, channels=factors, on_batch=advance
            )
        self.tell(calibration.skipped, count)
        self.log.say(f"          ranges {calibration.reason}")
        seen = {name: item.peak for name, item in calibration.statistics.items()}
        own, others = Peaks(seen, calibration.channels or {}), self._peaks(parts, factors, self.gate_paths)
        return calibration, own.joined(others)

    def moments(self, graph: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
        """Measure how the inputs of quantizable matrix products vary together: the mean of x xᵀ, (I, I), by tensor.

        The graph is the one that ``quantized`` takes; without such products the dict is empty.
        """
        part = product_inputs(graph)
        if not part.graph.output:
            return {}
        count = len(self.images.paths)
        with self.log.step(f"measure what the matrix products take on {count} images", count) as advance:
            return second_moments(serialize(part), self.images.paths, self.spec, on_batch=advance)

    def _peaks(self, parts: tuple[bytes, ...], channels: Collection[str], paths: tuple[Path, ...]) -> Peaks:
        with self.log.step(f"measure the largest activations on {len(paths)} images", len(paths)) as advance:
            peaks = measure_peaks(parts, paths, self.spec, channels=channels, on_batch=advance)
        self.tell(peaks.skipped, len(paths))
        return peaks
