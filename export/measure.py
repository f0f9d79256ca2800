"""What is measured on images before a graph is lowered: activations for FP16, ranges for INT8, stale statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..calib import Calibration, CalibrationImages, calibrate, measure_peaks
from ..runtime.spec import ModelSpec
from ..train.model import KerasModel
from .activations import Activations
from .graphs.build import serialize
from .graphs.measured import measured_graph
from .graphs.typed import too_large_weights
from .reference import Reference
from .stale import batch_norm_outputs, stale_layers
from .steps import Steps

__all__ = ["Measurement", "measure_model"]

RANGES = "ranges.npz"


@dataclass(frozen=True)
class Measurement:
    """Statistics of every activation, and what follows from them.

    Attributes:
        calibration: over the calibration images.
        activations: the largest over these and the gate's images.
        stale: a sentence, where BatchNorm's moving averages do not fit the weights.
        worst_ratio: the layer whose output is furthest from what training made it, and by what factor.
        excluded: calibration images that were dropped because the gate uses them too.
        duplicates: calibration images that were dropped as copies of others.
    """

    calibration: Calibration
    activations: Activations
    stale: str | None
    worst_ratio: tuple[str, float]
    excluded: int
    duplicates: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """For every variant that was made from it; the cause of a collapse before any of its symptoms."""
        first = (self.stale,) if self.stale else ()
        return (*first, *self.calibration.warnings)

    def record(self) -> dict[str, Any]:
        """For manifest and report: what the ranges are bound to."""
        binding = self.calibration.binding
        return {
            "images": self.calibration.images,
            "images_sha256": binding.images,
            "weights_sha256": binding.weights,
            "preprocessing_sha256": binding.preprocessing,
            "graph_sha256": binding.graph,
            "excluded_as_validation": self.excluded,
            "duplicates": self.duplicates,
            "furthest_batch_norm": {"layer": self.worst_ratio[0], "ratio": self.worst_ratio[1]},
        }


def measure_model(
    model: KerasModel,
    spec: ModelSpec,
    graph: onnx.ModelProto,
    images: CalibrationImages,
    reference: Reference,
    weights: str,
    folder: Path,
    steps: Steps,
) -> Measurement:
    """Run the FP32 graph over the calibration images, or take what was measured on the same, and over the gate's.

    Args:
        model: Keras's.
        spec: of the model.
        graph: in FP32, the recurrent branch unrolled.
        images: to calibrate on.
        reference: has the gate's images.
        weights: SHA-256 of the model's.
        folder: of the report, which keeps the ranges.
        steps: says what is being done.

    Raises:
        CalibrationError: no image can be read, or an activation is not finite.
    """
    data = serialize(measured_graph(graph))
    with steps.step(f"calibrate on {len(images.paths)} images", len(images.paths)) as advance:
        calibration = calibrate(data, images, spec, weights, folder / RANGES, on_batch=advance)
    steps.say(f"          ranges {calibration.reason}")
    paths = tuple(image.path for image in reference.images)
    with steps.step(f"measure activations on the {len(paths)} gate images", len(paths)) as advance:
        held_out = measure_peaks(data, paths, spec, on_batch=advance)
    seen = {name: item.peak for name, item in calibration.statistics.items()}
    report = stale_layers(model, batch_norm_outputs(model, graph), calibration.statistics)
    return Measurement(
        calibration,
        Activations.of((seen, held_out), too_large_weights(graph)),
        report.warning,
        report.worst,
        images.excluded,
        images.duplicates,
    )
