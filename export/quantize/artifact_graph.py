"""Writes the graph of each planned artifact, from the FP32 graph and what was measured of its activations.

    FP32 graph ─┬──────────────────────────────────────────────────────────► FP32, for every target
                ├─► CpuGraph: recurrent weights in blocks ─────────────────► w8, for the CPU
                ├─► GpuGraph: what FP16 can't hold stays in FP32 ──────────► FP16, for TensorRT and CUDA
                └─► even_channels ─┬─► GpuGraph with signed ranges ────────► INT8 for TensorRT
                                   └─► fill_channels ─► CpuGraph ──────────► INT8 for the CPU

Each stage is made anew from the one before and let go with the artifact: a graph holds a copy of all weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from ...calib import Range
from ...runtime.spec import ModelSpec
from ..artifacts import Artifact
from ..convert.fp32_graph import GraphBuilder
from ..convert.graph_reading import branch_of, image_layers, is_affine, quantizable
from ..convert.inspection import Declaration, check_graph
from .cpu_graph import CpuGraph
from .cpu_speed import fill_channels
from .equalize import EvenedGraph, PixelGrid, even_channels
from .gpu_graph import ActivationPeaks, GpuGraph
from .int8_weights import Rounder


@dataclass(frozen=True, eq=False)
class ActivationSurvey:
    """What a first look at the activations found.

    ``channel_peaks`` and ``channel_means`` are the largest |value| and the mean of each channel, (C,), by tensor:
    INT8's channels are evened out by the one, and its biases make up for rounded weights by the other. ``stale`` is a
    sentence for the user where BatchNorm's moving averages do not fit the weights, else None; ``worst_ratio`` names the
    layer whose output is furthest from what training made it, and by what factor.
    """

    channel_peaks: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    channel_means: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    stale: str | None = None
    worst_ratio: tuple[str, float] = ("", 1.0)


@dataclass(frozen=True, eq=False)
class Int8Ranges:
    """What INT8 is made by, of the graph whose channels were evened out.

    ``signed`` are the ranges for TensorRT, ``unsigned`` those for ONNX Runtime on the CPU, by ``range_key``; ``peaks``
    are the largest activations, by which layers beside INT8 are FP16 or FP32.
    """

    signed: Mapping[str, Range]
    unsigned: Mapping[str, Range]
    peaks: ActivationPeaks = field(default_factory=ActivationPeaks)
    rounder: Rounder = field(default_factory=Rounder)


@dataclass(frozen=True, eq=False)
class ArtifactGraphs:
    """Writes artifacts from one model, whose CNN is converted once.

    ``half`` holds the largest activations of the FP32 graph, which FP16 is made from, and ``int8`` what INT8 is made
    by; either is None where that precision was not asked for.
    """

    builder: GraphBuilder
    spec: ModelSpec
    survey: ActivationSurvey = field(default_factory=ActivationSurvey)
    half: ActivationPeaks | None = None
    int8: Int8Ranges | None = None

    def peaks(self, precision: str) -> ActivationPeaks | None:
        """Return the largest activations of the graph that a precision is made from; None where none were measured."""
        return {"fp16": self.half, "int8": self.int8.peaks if self.int8 else None}.get(precision)

    def source(self, form: str) -> onnx.ModelProto:
        """Build the FP32 graph in one form of the recurrent branch; without that branch every form is the same."""
        return self.builder.build("unrolled" if form == "unrolled" else "lstm")

    def evened(self, form: str) -> EvenedGraph:
        """Build the graph that INT8 is made from: the same function, its channels evened out."""
        survey = self.survey
        return even_channels(self.source(form), survey.channel_peaks, survey.channel_means, PixelGrid.of(self.spec))

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
        return _always_wide(self.source(artifact.recurrent), artifact)

    def write(self, artifact: Artifact, wider: Collection[str] = ()) -> onnx.ModelProto:
        """Write the artifact's graph, the layers of ``wider`` in the next wider precision than INT8, and check it."""
        quantized: list[str] = []
        if artifact.precision == "int8":
            evened = self.evened(artifact.recurrent)
            kept = set(wider) | _always_wide(evened.graph, artifact)
            quantized = [layer for layer in quantizable(evened.graph) if layer not in kept]
            model = self._quantize(evened, artifact, quantized)
        else:
            model = self.source(artifact.recurrent)
            if artifact.precision == "w8":
                quantized = [layer for layer in quantizable(model) if branch_of(f"{layer}/") == "rnn"]
                model = CpuGraph(model, {}, (), in_blocks=quantized).write()
            elif artifact.precision == "fp16":
                model = GpuGraph(model, wide=self._wide("fp16")).write()
        check_graph(
            model,
            self.spec,
            Declaration(artifact.recurrent, bool(quantized), artifact.targets[0]),
        )
        return model

    def quantize_in_fp32(self, evened: EvenedGraph, quantized: Collection[str]) -> onnx.ModelProto:
        """Write an evened graph with some layers in INT8, as for TensorRT, and all others in FP32."""
        ranges = self._ranges
        return GpuGraph(
            evened.graph,
            ranges=ranges.signed,
            quantized=quantized,
            means=evened.means,
            rounder=ranges.rounder,
            half=False,
        ).write()

    def _quantize(self, evened: EvenedGraph, artifact: Artifact, quantized: list[str]) -> onnx.ModelProto:
        ranges = self._ranges
        if artifact.runs_integers_on_cpu:
            filled, means = fill_channels(evened.graph, evened.means)
            return CpuGraph(filled, ranges.unsigned, quantized, means=means, rounder=ranges.rounder).write()
        return GpuGraph(
            evened.graph,
            wide=self._wide("int8"),
            ranges=ranges.signed,
            quantized=quantized,
            means=evened.means,
            rounder=ranges.rounder,
        ).write()

    @property
    def _ranges(self) -> Int8Ranges:
        return self.int8 or Int8Ranges({}, {})

    def _wide(self, precision: str) -> frozenset[str]:
        peaks = self.peaks(precision)
        return peaks.wide if peaks else frozenset()


def _always_wide(source: onnx.ModelProto, artifact: Artifact) -> set[str]:
    # what a normalization takes, such as a residual stream, has channels whose width differs by more than bytes can
    # hold; in INT8 those of ResNet50V2 cost 13 % of the labels, those of DenseNet121 10 %
    affine = {node.name for node in source.graph.node if is_affine(node)}
    return affine | image_layers(source) if artifact.runs_integers_on_cpu else affine
