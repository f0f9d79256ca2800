"""What every export begins with: the model, Keras's answers, the graphs and what was measured on images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..calib import choose_images
from ..runtime.spec import ModelSpec
from ..train.model_file import load_model, weights_sha256
from .graphs.build import GraphBuilder
from .lower import Lowering, choose_ranges
from .measure import Measurement, measure_model
from .reference import Reference
from .request import ExportRequest
from .steps import Steps

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model, ready to be written as artifacts.

    Attributes:
        spec: of the model.
        weights: SHA-256 of its weights.
        reference: what Keras gives on the gate's images.
        lowering: from the FP32 graphs to artifacts.
        measurement: of activations and ranges; None where FP32 alone was asked for.
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
        ModelFileError: not a file that hybrid-train wrote, or a damaged one.
        ParityError: the Keras model itself gives NaN or infinity.
        ConversionError: tf2onnx failed.
        CalibrationError: no image to calibrate on.
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
    graph = builder.build("unrolled")
    chosen = choose_images(request.calibration, validation=[image.path for image in reference.images])
    measured = measure_model(model, spec, graph, chosen, reference, weights, request.report, steps)
    with steps.step(f"choose ranges ({settings.method})"):
        signed, unsigned = (
            choose_ranges(measured.calibration, graph, settings.method, symmetric=symmetric)
            for symmetric in (True, False)
        )
    lowering = Lowering(builder, spec, measured.activations, signed, unsigned, settings.levels)
    return Prepared(spec, weights, reference, lowering, measured, chosen.paths)
