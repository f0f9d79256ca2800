"""Lowers the FP32 graphs to the artifact of each precision and target."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from ...calib import Calibration, Method, Range, choose_range
from ...runtime.manifest import Precision
from ...runtime.spec import ModelSpec
from ..convert.build import GraphBuilder
from ..convert.check import Declaration, check_graph
from ..convert.layers import quantizable
from ..convert.recurrent import Form
from ..plan import Artifact
from .cpu import CpuGraph, image_layers
from .equalize import HALF_STEP, PIXELS, Equalizer
from .lanes import fill_lanes
from .measure import Measurement
from .measured import bounds
from .rounding import Rounder
from .typed import TypedGraph

__all__ = ["Evened", "Lowering", "choose_ranges"]

SIGNED_BYTE = {True: 127, False: 128}  # steps below zero, by whether the range is symmetric: then as many as above it


def choose_ranges(
    calibration: Calibration, graph: onnx.ModelProto, method: Method, *, symmetric: bool
) -> dict[str, Range]:
    """Choose the range of every measured tensor, by its ``range_key``.

    Args:
        calibration: the statistics of ``graph``.
        graph: a graph as ``build_graph`` writes it; it says which tensors are bounded by their mathematics.
        method: minmax, entropy or percentile.
        symmetric: whether the ranges are for signed INT8 with its zero at 0 (TensorRT); else they are for unsigned
            INT8 with a zero point.
    """
    limits = bounds(graph)
    ranges = {
        name: choose_range(item, method, symmetric=symmetric, bounds=limits.get(name))
        for name, item in calibration.statistics.items()
    }
    # pixels are bytes: their grid is known, and any other range than its own would round them
    grid = Range(-SIGNED_BYTE[symmetric] * 2 * HALF_STEP, 127 * 2 * HALF_STEP)
    return ranges | ({PIXELS: grid} if PIXELS in ranges else {})


class Evened(NamedTuple):
    """A graph whose channels were evened out, and the mean of each channel that a convolution takes, by its name."""

    graph: onnx.ModelProto
    means: Mapping[str, npt.NDArray[np.float64]]


@dataclass(eq=False)
class Lowering:
    """Writes artifacts from one model, whose CNN is converted once.

    Attributes:
        builder: writes the FP32 graphs.
        spec: the model's spec.
        measurement: what FP16 can hold, and by what INT8's channels are evened out; None for FP32 alone.
        signed: the ranges for TensorRT, by ``range_key``.
        unsigned: the ranges for ONNX Runtime on the CPU, likewise.
        rounder: rounds the weights of matrix products.
    """

    builder: GraphBuilder
    spec: ModelSpec
    measurement: Measurement | None = None
    signed: Mapping[str, Range] = field(default_factory=dict)
    unsigned: Mapping[str, Range] = field(default_factory=dict)
    rounder: Rounder = field(default_factory=Rounder)
    _kept: tuple[str, Measurement | None, Evened] | None = None

    def source(self, form: str) -> onnx.ModelProto:
        """Build the FP32 graph in one form of the recurrent branch; without that branch every form is the same."""
        recurrent: Form = "unrolled" if form == "unrolled" else "lstm"
        return self.builder.build(recurrent)

    def evened(self, form: str) -> Evened:
        """Build the graph that INT8 is made from: the same function, its channels evened out. The last one is kept."""
        if self._kept is None or self._kept[0] != form or self._kept[1] is not self.measurement:
            self._kept = None  # it holds a copy of all weights: there must not be two at a time
            self._kept = (form, self.measurement, self._even(form))
        return self._kept[2]

    def _even(self, form: str) -> Evened:
        source = self.source(form)
        if self.measurement is None:
            return Evened(source, {})
        equalizer = Equalizer(source, self.measurement.channel_peaks, self.measurement.channel_means)
        return Evened(equalizer.write(), equalizer.input_means)

    def parameters(self, form: str) -> dict[str, int]:
        """Count the weights of each layer that INT8 can take in a form, by the layer, in the order of the graph."""
        source = self.source(form)
        sizes = {tensor.name: math.prod(tensor.dims) for tensor in source.graph.initializer}
        # the steps of an LSTM share their weights
        return {
            layer: sum(sizes[name] for name in {node.input[1] for node in nodes})
            for layer, nodes in quantizable(source).items()
        }

    def always_wide(self, artifact: Artifact) -> set[str]:
        """Return the layers that an INT8 artifact never quantizes, whatever its gate says."""
        return image_layers(self.evened(artifact.recurrent).graph) if artifact.targets == ("cpu",) else set()

    def write(self, artifact: Artifact, wider: Collection[str] = ()) -> onnx.ModelProto:
        """Write the artifact's graph and check it.

        Args:
            artifact: the artifact to write.
            wider: the layers that INT8 gives back to the next wider precision.

        Raises:
            ConversionError: the graph is not the one that was declared.
        """
        declaration = Declaration(artifact.recurrent)
        if artifact.precision == "int8":
            evened = self.evened(artifact.recurrent)
            kept = self.always_wide(artifact).union(wider)
            quantized = [layer for layer in quantizable(evened.graph) if layer not in kept]
            model = self._quantize(evened, artifact, quantized)
            declaration = Declaration(artifact.recurrent, bool(quantized), artifact.targets[0])
        else:
            model = self.source(artifact.recurrent)
            if artifact.precision == "fp16":
                model = TypedGraph(model, wide=self._wide("fp16")).write()
        check_graph(model, self.spec, declaration)
        return model

    def quantize_in_fp32(self, form: str, quantized: Collection[str]) -> onnx.ModelProto:
        """Write the graph with some layers in INT8, as for TensorRT, and all others in FP32."""
        evened = self.evened(form)
        return TypedGraph(
            evened.graph,
            ranges=self.signed,
            quantized=quantized,
            means=evened.means,
            rounder=self.rounder,
            half=False,
        ).write()

    def _quantize(self, evened: Evened, artifact: Artifact, quantized: list[str]) -> onnx.ModelProto:
        source, means = evened
        if artifact.targets == ("cpu",):
            filled, means = fill_lanes(source, means)
            return CpuGraph(filled, self.unsigned, quantized, means=means, rounder=self.rounder).write()
        return TypedGraph(
            source,
            wide=self._wide("int8"),
            ranges=self.signed,
            quantized=quantized,
            means=means,
            rounder=self.rounder,
        ).write()

    def _wide(self, precision: Precision) -> frozenset[str]:
        activations = self.measurement.activations(precision) if self.measurement else None
        return activations.wide if activations else frozenset()
