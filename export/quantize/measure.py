"""Measures on images what lowering a graph needs: activations for FP16, ranges for INT8, stale BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ...calib import SURVEYED, Calibration, CalibrationImages, calibrate, measure_peaks, second_moments, survey
from ...runtime.manifest import Precision
from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from ..convert.build import serialize
from ..gates.reference import Reference
from ..steps import Steps
from .activations import Activations
from .equalize import channel_tensors
from .measured import measured_graph, product_inputs
from .stale import batch_norm_outputs, stale_layers
from .typed import too_large_weights

__all__ = ["Measurement", "Measurer"]

RANGES = "ranges.npz"


@dataclass(frozen=True)
class Measurement:
    """Statistics of the activations, and what follows from them.

    Attributes:
        channel_peaks: the largest |value| of each channel, (C,), by tensor; INT8's channels are evened out by it.
        channel_means: the mean of each channel, (C,), by tensor; INT8's biases make up for rounded weights by it.
        stale: a sentence for the user where BatchNorm's moving averages do not fit the weights, else None.
        worst_ratio: the layer whose output is furthest from what training made it, and by what factor.
        images: how many images there were to calibrate on.
        excluded: how many calibration images were dropped because the gate uses them too.
        duplicates: how many calibration images were dropped as copies of others.
        half: the largest activations of the graph that FP16 is made from; None where FP16 was not asked for.
        quantized: the largest activations of the graph that INT8 is made from; None where INT8 was not asked for.
        calibration: the statistics that INT8's ranges follow from; None where INT8 was not asked for.
    """

    channel_peaks: Mapping[str, npt.NDArray[np.float32]]
    channel_means: Mapping[str, npt.NDArray[np.float64]]
    stale: str | None
    worst_ratio: tuple[str, float]
    images: int
    excluded: int
    duplicates: int
    half: Activations | None = None
    quantized: Activations | None = None
    calibration: Calibration | None = None

    def activations(self, precision: Precision) -> Activations | None:
        """Return the largest activations of the graph that a precision is made from; None where none were measured."""
        return {"fp16": self.half, "int8": self.quantized}.get(precision)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for every variant made from this; the cause of a collapse comes before any of its symptoms."""
        first = (self.stale,) if self.stale else ()
        return (*first, *(self.calibration.warnings if self.calibration else ()))

    def record(self) -> dict[str, Any]:
        """Return, for manifest and report, what the statistics were measured on."""
        content: dict[str, Any] = {
            "images": self.images,
            "excluded_as_validation": self.excluded,
            "duplicates": self.duplicates,
            "furthest_batch_norm": {"layer": self.worst_ratio[0], "ratio": self.worst_ratio[1]},
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


class Measurer:
    """Runs graphs over the calibration images and the gate's.

    Args:
        spec: the model's spec.
        images: the images to calibrate on.
        reference: Keras's outputs, with the gate's images.
        steps: reports what is being done.
    """

    def __init__(self, spec: ModelSpec, images: CalibrationImages, reference: Reference, steps: Steps) -> None:
        self._spec = spec
        self._images = images
        self._gate_paths = tuple(image.path for image in reference.images)
        self._steps = steps

    def survey(self, model: KerasModel, graph: onnx.ModelProto) -> Measurement:
        """Look at some of the calibration images: peaks of the channels, and whether BatchNorm's statistics fit.

        Args:
            model: the Keras model.
            graph: the same model's graph in FP32, the recurrent branch unrolled.

        Raises:
            CalibrationError: no image can be read, or an activation is not finite.
        """
        paths = self._images.paths[:SURVEYED]
        data = serialize(measured_graph(graph))
        with self._steps.step(f"survey the activations on {len(paths)} images", len(paths)) as advance:
            found = survey(data, paths, self._spec, channel_tensors(graph), on_batch=advance)
        report = stale_layers(model, batch_norm_outputs(model, graph), found.statistics)
        return Measurement(
            found.channel_peaks,
            found.channel_means,
            report.warning,
            report.worst,
            len(self._images.paths),
            self._images.excluded,
            self._images.duplicates,
        )

    def half(self, graph: onnx.ModelProto) -> Activations:
        """Measure the largest activations of the graph that FP16 is made from, over all images."""
        return self._activations(graph, {}, (*self._images.paths, *self._gate_paths))

    def quantized(self, graph: onnx.ModelProto, weights: str, folder: Path) -> tuple[Calibration, Activations]:
        """Calibrate the graph that INT8 is made from, or reuse the report's statistics; measure its activations too.

        Args:
            graph: the graph in FP32, the recurrent branch unrolled, its channels evened out.
            weights: the SHA-256 of the model's weights.
            folder: the report's folder, which keeps the statistics.

        Raises:
            CalibrationError: an activation is not finite.
        """
        data, count = serialize(measured_graph(graph)), len(self._images.paths)
        with self._steps.step(f"calibrate on {count} images", count) as advance:
            calibration = calibrate(data, self._images, self._spec, weights, folder / RANGES, on_batch=advance)
        self._steps.say(f"          ranges {calibration.reason}")
        seen = {name: item.peak for name, item in calibration.statistics.items()}
        return calibration, self._activations(graph, seen, self._gate_paths)

    def moments(self, graph: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
        """Measure how the inputs of quantizable matrix products vary together: the mean of x xᵀ, (I, I), by tensor.

        Without such products the dict is empty.

        Args:
            graph: the graph that ``quantized`` takes.

        Raises:
            CalibrationError: an activation is not finite.
        """
        part = product_inputs(graph)
        if not part.graph.output:
            return {}
        count = len(self._images.paths)
        with self._steps.step(f"measure what the matrix products take on {count} images", count) as advance:
            return second_moments(serialize(part), self._images.paths, self._spec, on_batch=advance)

    def _activations(self, graph: onnx.ModelProto, seen: Mapping[str, float], paths: tuple[Path, ...]) -> Activations:
        data = serialize(measured_graph(graph))
        with self._steps.step(f"measure the largest activations on {len(paths)} images", len(paths)) as advance:
            peaks = measure_peaks(data, paths, self._spec, on_batch=advance)
        return Activations.of((seen, peaks), too_large_weights(graph))
