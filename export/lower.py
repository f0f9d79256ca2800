"""From the FP32 graphs to the artifact of each precision and target."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx

from ..calib import Calibration, Method, Range, choose_range
from ..runtime.manifest import Precision
from ..runtime.spec import ModelSpec
from .graphs.build import GraphBuilder
from .graphs.check import Declaration, check_graph
from .graphs.cpu import CpuGraph
from .graphs.equalize import Equalizer
from .graphs.layers import quantizable
from .graphs.measured import bounds
from .graphs.recurrent import Form
from .graphs.scales import BITS_8
from .graphs.typed import TypedGraph
from .measure import Measurement
from .plan import Artifact

__all__ = ["Lowering", "choose_ranges"]


def choose_ranges(
    calibration: Calibration, graph: onnx.ModelProto, method: Method, *, symmetric: bool
) -> dict[str, Range]:
    """The range of every measured tensor, by its ``range_key``.

    Args:
        calibration: of ``graph``.
        graph: as ``build_graph`` writes it; says which tensors are bounded by their mathematics.
        method: minmax, entropy or percentile.
        symmetric: for signed INT8 with its zero at 0 (TensorRT); else for unsigned with a zero point.
    """
    limits = bounds(graph)
    return {
        name: choose_range(item, method, symmetric=symmetric, bounds=limits.get(name))
        for name, item in calibration.statistics.items()
    }


@dataclass(eq=False)
class Lowering:
    """Writes artifacts from one model, whose CNN is converted once.

    Attributes:
        builder: of the FP32 graphs.
        spec: of the model.
        measurement: what FP16 can hold, and by what INT8's channels are evened out; None for FP32 alone.
        signed: ranges for TensorRT.
        unsigned: ranges for ONNX Runtime on the CPU.
        levels: the largest integer of a weight on the CPU: 127, or 63 where it lacks VNNI.
    """

    builder: GraphBuilder
    spec: ModelSpec
    measurement: Measurement | None = None
    signed: Mapping[str, Range] = field(default_factory=dict)
    unsigned: Mapping[str, Range] = field(default_factory=dict)
    levels: int = BITS_8

    def source(self, form: str) -> onnx.ModelProto:
        """The FP32 graph in one form of the recurrent branch; where there is none, the only one."""
        recurrent: Form = "unrolled" if form == "unrolled" else "lstm"
        return self.builder.build(recurrent)

    def evened(self, form: str) -> onnx.ModelProto:
        """The same function with its channels evened out: what INT8 is made from."""
        source = self.source(form)
        return Equalizer(source, self.measurement.channel_peaks).write() if self.measurement else source

    def parameters(self, form: str) -> dict[str, int]:
        """The layers that INT8 can take in a form, in the order of the graph, and the number of weights of each."""
        source = self.source(form)
        sizes = {tensor.name: math.prod(tensor.dims) for tensor in source.graph.initializer}
        # the steps of an LSTM share their weights
        return {
            layer: sum(sizes[name] for name in {node.input[1] for node in nodes})
            for layer, nodes in quantizable(source).items()
        }

    def write(self, artifact: Artifact, wider: Collection[str] = ()) -> onnx.ModelProto:
        """The artifact's graph, checked.

        Args:
            artifact: what to write.
            wider: layers that INT8 gives back to the next wider precision.

        Raises:
            ConversionError: it is not the one that was declared.
        """
        source = self.evened(artifact.recurrent) if artifact.precision == "int8" else self.source(artifact.recurrent)
        model, declaration = source, Declaration(artifact.recurrent)
        if artifact.precision == "fp16":
            model = TypedGraph(source, wide=self._wide("fp16")).write()
        elif artifact.precision == "int8":
            quantized = [layer for layer in quantizable(source) if layer not in wider]
            model = self._quantize(source, artifact, quantized)
            declaration = Declaration(artifact.recurrent, bool(quantized), artifact.targets[0])
        check_graph(model, self.spec, declaration)
        return model

    def quantize_in_fp32(self, form: str, quantized: Collection[str]) -> onnx.ModelProto:
        """The graph with some layers in INT8, as for TensorRT, and all others in FP32."""
        return TypedGraph(self.evened(form), ranges=self.signed, quantized=quantized, half=False).write()

    def _quantize(self, source: onnx.ModelProto, artifact: Artifact, quantized: list[str]) -> onnx.ModelProto:
        if artifact.targets == ("cpu",):
            return CpuGraph(source, self.unsigned, quantized, levels=self.levels).write()
        return TypedGraph(source, wide=self._wide("int8"), ranges=self.signed, quantized=quantized).write()

    def _wide(self, precision: Precision) -> frozenset[str]:
        activations = self.measurement.activations(precision) if self.measurement else None
        return activations.wide if activations else frozenset()
