"""Prepares what every export begins with: the model, Keras's answers, the graphs and what was measured on images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ...calib import choose_images
from ...runtime.spec import ModelSpec
from ...train.model_file import load_model, weights_sha256
from ..convert.build import GraphBuilder
from ..gates.reference import Reference
from ..request import ExportRequest
from ..steps import Steps
from .lower import Lowering, choose_ranges
from .measure import Measurement, Measurer
from .rounding import Rounder

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model, ready to be written as artifacts.

    Attributes:
        spec: the model's spec.
        weights: the SHA-256 of the model's weights.
        reference: what Keras gives on the gate's images.
        lowering: writes artifacts from the FP32 graphs.
        measurement: what was measured of activations and ranges; None where FP32 alone was asked for.
        calibration_paths: the images that were calibrated on.
    """

    spec: ModelSpec
    weights: str
    reference: Reference
    lowering: Lowering
    measurement: Measurement | None = None
    calibration_paths: tuple[Path, ...] = ()


def prepare(request: ExportRequest, steps: Steps) -> Prepared:
    """Load the model, run Keras, convert, and measure what the precisions need.

    Raises:
        ModelFileError: the file is not one that hybrid-train wrote, or it is damaged.
        ParityError: the Keras model itself gives NaN or infinity.
        ConversionError: tf2onnx failed.
        CalibrationError: there is no image to calibrate on.
    """
    with steps.step("load the Keras model"):
        model, spec = load_model(request.model)
        weights = weights_sha256(model)
    images, settings = request.images.images, request.settings
    with steps.step(f"run Keras on {len(images)} images", len(images)) as advance:
        reference = Reference.of(model, spec, images, on_batch=advance)
    for reason in reference.skipped:
        steps.say(f"passed over {reason}", style="yellow")
    with steps.step("convert to ONNX"):
        builder = GraphBuilder(model, spec)
    if not settings.needs_calibration:
        return Prepared(spec, weights, reference, Lowering(builder, spec))
    chosen = choose_images(request.calibration, validation=[image.path for image in reference.images])
    measurer = Measurer(spec, chosen, reference, steps)
    graph = builder.build("unrolled")
    lowering = Lowering(builder, spec, measurer.survey(model, graph))
    if "fp16" in settings.precisions:
        lowering.measurement = replace(_measured(lowering), half=measurer.half(graph))
    if "int8" in settings.precisions:
        _calibrate(lowering, measurer, weights, request, steps)
    return Prepared(spec, weights, reference, lowering, lowering.measurement, chosen.paths)


def _calibrate(lowering: Lowering, measurer: Measurer, weights: str, request: ExportRequest, steps: Steps) -> None:
    """Give the lowering its ranges, and the inputs' moments that its weights are rounded by."""
    graph, method = lowering.evened("unrolled").graph, request.settings.method
    calibration, activations = measurer.quantized(graph, weights, request.report)
    lowering.measurement = replace(_measured(lowering), quantized=activations, calibration=calibration)
    lowering.rounder = Rounder(measurer.moments(graph))
    with steps.step(f"choose ranges ({method})"):
        lowering.signed, lowering.unsigned = (
            choose_ranges(calibration, graph, method, symmetric=symmetric) for symmetric in (True, False)
        )


def _measured(lowering: Lowering) -> Measurement:
    assert lowering.measurement is not None  # noqa: S101  # it was surveyed
    return lowering.measurement
