"""Writes an FP32 graph in FP16, and in INT8 where ranges are given, for TensorRT and ONNX Runtime's CUDA provider.

    activation (FP16) ──► Q ──► DQ ─┬─► Conv, MatMul (FP16 in the graph; the engine takes the integers) ──► FP16
    weight (integers) ────────► DQ ─┘        Q, DQ: QuantizeLinear, DequantizeLinear

Precision lives in the graph, as strongly typed TensorRT wants it. Inputs and outputs of the graph stay FP32. What FP16
can't hold stays in FP32 too: ONNX Runtime on a CPU does not show an overflow, so nothing is learnt from running the
FP16 graph there; the FP32 graph is measured, and the precision of each layer decided from that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ...calib import Range
from ..convert.fp32_graph import IR_VERSION, OPSET, QUANTIZED_IR_VERSION, QUANTIZED_OPSET, set_versions
from ..convert.graph_reading import (
    RECURRENT_OPERATORS,
    WEIGHT_AXIS,
    arrays,
    branch_of,
    constant_shapes,
    float_tensors,
    is_affine,
    layer_of,
    range_key,
)
from ..convert.graph_writer import GraphWriter
from .int8_weights import QuantizedWeight, Rounder, bias_correction, quantize_weight, signed_scale

FP16_MAX = 65504.0
FP16_WARNING = 16_000.0  # two bits below FP16's end: a brighter scene than any that was measured may double a value
MAX_LISTED = 5  # layers that a warning names

FLOAT, FLOAT16 = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
NOT_FLOAT = int(TensorProto.UNDEFINED)  # shapes and indices, which stay as they are
# inputs that ONNX wants in FP32 whatever the others are: a Resize's region and scales
FP32_INPUTS = {"Resize": (1, 2)}
REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare")
MAKING_FLOATS = ("ConstantOfShape", "EyeLike", "Range")  # which take none, and have their type from elsewhere
WHOLE_LAYER = (*RECURRENT_OPERATORS, "Expand")  # the operator, and the zeros that it starts from, which have its type
FLOATS: dict[int, type[np.floating]] = {FLOAT: np.float32, FLOAT16: np.float16}


class GpuGraph:
    """Rewrites an FP32 graph, node by node; the head (product, logits, softmax) stays in FP32.

    The source is a graph as ``GraphBuilder`` writes it, and is not changed. ``wide`` has the ``range_key`` of each
    tensor that FP16 can't hold; the nodes that make or take one stay in FP32. Without ``half`` every node that is not
    INT8 stays in FP32. The inputs of ``quantized`` layers (``layer_of``) need their ranges, by ``range_key``. ``means``
    and ``rounder`` are as for ``CpuGraph``.
    """

    def __init__(
        self,
        source: onnx.ModelProto,
        *,
        wide: Collection[str] = (),
        ranges: Mapping[str, Range] | None = None,
        quantized: Collection[str] = (),
        means: Mapping[str, npt.NDArray[np.float64]] | None = None,
        rounder: Rounder | None = None,
        half: bool = True,
    ) -> None:
        self._source = source
        self._wide = frozenset(wide)
        self._ranges = ranges or {}
        self._quantized = frozenset(quantized)
        self._means = means or {}
        self._rounder = rounder or Rounder()
        self._half = half
        self._arrays = arrays(source)
        self._shapes = constant_shapes(source)
        self._floats = float_tensors(source)
        self._writer = GraphWriter(source.graph.name)
        self._made: dict[str, int] = {}  # the type of each tensor that was written

    def write(self) -> onnx.ModelProto:
        """Write the graph in its new types: opset 17 and IR 8, or 19 and 9 where layers are quantized."""
        self._made = {value.name: FLOAT for value in self._source.graph.input}
        self._writer.graph.input.extend(self._source.graph.input)
        for node in self._source.graph.node:
            self._node(node)
        self._writer.graph.output.extend(self._source.graph.output)
        versions = (QUANTIZED_OPSET, QUANTIZED_IR_VERSION) if self._quantized else (OPSET, IR_VERSION)
        set_versions(self._writer.model, *versions)
        return self._writer.model

    def _node(self, node: onnx.NodeProto) -> None:
        kind = self._kind(node)
        if layer_of(node, self._shapes) in self._quantized:
            self._writer.copy(node, self._quantized_inputs(node, kind))
        elif is_affine(node):
            self._affine(node, kind)
        else:
            inputs = [
                self._input(name, FLOAT if place in FP32_INPUTS.get(node.op_type, ()) else kind)
                for place, name in enumerate(node.input)
            ]
            self._plain(node, inputs, kind)
        self._made.update({name: kind if name in self._floats else NOT_FLOAT for name in node.output})

    def _plain(self, node: onnx.NodeProto, inputs: list[str], kind: int) -> None:
        """Copy a node that stays in float; where the opset is 19, as that has its attributes."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index in reversed(range(len(node.attribute))):
            item = node.attribute[index]
            if item.name == "to" and item.i in FLOATS:
                copy.attribute[index].i = kind
            if item.name == "axes" and node.op_type in REDUCTIONS and self._quantized:
                inputs.append(self._writer.constant(f"{node.name}/axes", np.array(item.ints, np.int64)))
                del copy.attribute[index]
        if node.op_type == "Split" and len(node.input) < 2 and self._quantized:
            copy.attribute.append(onnx.helper.make_attribute("num_outputs", len(node.output)))
        self._writer.copy(copy, inputs)

    def _affine(self, node: onnx.NodeProto, kind: int) -> None:
        """Write a factor and an offset of each channel as such: engines fuse these into what is around them."""
        value = self._input(node.input[0], kind)
        values = {"factors": self._float(node.input[1])}
        if len(node.input) > 2:
            values["offsets"] = self._float(node.input[2])
        for (name, part), operator in zip(values.items(), ("Mul", "Add"), strict=False):
            constant = self._writer.constant(f"{node.name}/{name}", part.reshape(1, -1, 1, 1).astype(FLOATS[kind]))
            last = name == list(values)[-1]
            value = self._writer.node(operator, [value, constant], node.output[0] if last else f"{node.name}/scaled")

    def _quantized_inputs(self, node: onnx.NodeProto, kind: int) -> list[str]:
        """Put both inputs through INT8; a bias stays as it is, or gets what makes up for rounded weights."""
        inputs = [self._activation(node.input[0], kind), self._weight(node, kind)]
        if node.name not in self._means:
            return inputs + [self._input(name, kind) for name in node.input[2:]]
        kernel = self._float(node.input[1])
        lost = bias_correction(kernel, self._rounded(node, kind), self._means[node.name])
        bias = np.asarray(self._arrays[node.input[2]], np.float64) if len(node.input) > 2 else np.zeros(len(lost))
        corrected = np.asarray(bias + lost, FLOATS[kind])
        return [*inputs, self._writer.constant(f"{node.name}:{_suffix(kind)}/bias", corrected)]

    def _kind(self, node: onnx.NodeProto) -> int:
        """Choose FLOAT or FLOAT16: a strongly typed node has one type for all it takes and makes."""
        if not self._half or branch_of(node.name) == "head" or self._is_wide(node):
            return FLOAT
        if node.op_type in MAKING_FLOATS:
            return FLOAT
        return FLOAT16

    def _is_wide(self, node: onnx.NodeProto) -> bool:
        if node.op_type in WHOLE_LAYER and branch_of(node.name) == "rnn":
            layer = node.name.rsplit("/", 1)[0]  # what is inside it has names only where the steps are written out
            return any(name.startswith((f"{layer}/", f"{layer}-")) for name in self._wide)
        return not self._wide.isdisjoint(range_key(name) for name in (*node.input, *node.output))

    def _input(self, name: str, kind: int) -> str:
        if not name:
            return name
        if name not in self._made:
            return self._constant(name, kind)
        return name if self._made[name] in (kind, NOT_FLOAT) else self._cast(name, kind)

    def _cast(self, name: str, kind: int) -> str:
        target = f"{name}:{_suffix(kind)}"
        if self._writer.is_new(target):
            self._writer.node("Cast", [name], target, to=kind)
        return target

    def _constant(self, name: str, kind: int) -> str:
        values = self._arrays[name]
        floating = values.dtype == np.float32
        target = f"{name}:fp16" if floating and kind == FLOAT16 else name
        if self._writer.is_new(target):
            self._writer.constant(target, values.astype(FLOATS[kind]) if floating else values)
        return target

    def _activation(self, name: str, kind: int) -> str:
        """Put a tensor through INT8 and back, and return the result's name."""
        key = range_key(name)
        target = f"{name}:{_suffix(kind)}/dequantized"
        if self._writer.is_new(target):
            scale = f"{key}:{_suffix(kind)}/scale"
            if self._writer.is_new(scale):
                self._writer.constant(scale, signed_scale(self._ranges[key], FLOATS[kind]))
            zero = self._zero()
            integers = self._writer.node(
                "QuantizeLinear", [self._input(name, kind), scale, zero], f"{name}:{_suffix(kind)}/quantized"
            )
            self._writer.node("DequantizeLinear", [integers, scale, zero], target)
        return target

    def _weight(self, node: onnx.NodeProto, kind: int) -> str:
        """Store a weight as integers, once however many nodes take it: a recurrent layer's is taken by every step."""
        name = f"{node.input[1]}:{_suffix(kind)}"
        target = f"{name}/dequantized"
        if self._writer.is_new(target):
            weight = self._rounded(node, kind)
            values, axis = weight.integers, weight.axis
            if branch_of(node.name) == "rnn":
                # of the rank of what recurrent layers' products take, (T, N, I): for any other TensorRT's parser puts a
                # reshape between this dequantization and each of its products
                values, axis = values[None], axis + 1
            integers = self._writer.constant(f"{name}/integers", values)
            scales = self._writer.constant(f"{name}/scales", weight.scales)
            zeros = self._writer.constant(f"{name}/zeros", np.zeros(len(weight.scales), np.int8))
            self._writer.node("DequantizeLinear", [integers, scales, zeros], target, axis=axis)
        return target

    def _rounded(self, node: onnx.NodeProto, kind: int) -> QuantizedWeight:
        value, name = node.input[:2]
        if node.op_type == "MatMul":
            return self._rounder.round(name, self._float(name), range_key(value), dtype=FLOATS[kind])
        return quantize_weight(self._float(name), WEIGHT_AXIS[node.op_type], dtype=FLOATS[kind])

    def _float(self, name: str) -> npt.NDArray[np.float32]:
        return np.asarray(self._arrays[name], np.float32)

    def _zero(self) -> str:
        """Write the zero point: TensorRT takes signed integers with their zero at 0."""
        if self._writer.is_new("zero"):
            self._writer.constant("zero", np.array(0, np.int8))
        return "zero"


def too_large_weights(model: onnx.ModelProto) -> dict[str, float]:
    """Return the largest |value| of constants that FP16 can't hold, by the ``range_key`` of what their node makes."""
    largest = {name: _largest(values) for name, values in arrays(model).items() if values.dtype == np.float32}
    beyond = {name: value for name, value in largest.items() if not value <= FP16_MAX}
    found: dict[str, float] = {}
    for node in model.graph.node:
        taken = [beyond[name] for name in node.input if name in beyond]
        if taken and branch_of(node.name) != "head":
            found[range_key(next(output for output in node.output if output))] = max(taken)
    return found


def _largest(values: npt.NDArray[np.generic]) -> float:
    return float(np.abs(np.asarray(values, np.float32)).max(initial=0))


def _suffix(kind: int) -> str:
    return "fp16" if kind == FLOAT16 else "fp32"


@dataclass(frozen=True)
class ActivationPeaks:
    """The largest |activation| of each tensor that FP16 would hold, by its name.

    ``constants`` is the largest |value| of the weights beyond FP16's range, by the tensor that their layer makes.
    """

    largest: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, measured: Iterable[Mapping[str, float]], constants: Mapping[str, float] | None = None
    ) -> ActivationPeaks:
        """Join the peaks that were measured over several sets of images; the larger one of each tensor counts."""
        largest: dict[str, float] = {}
        for peaks in measured:
            for name, peak in peaks.items():
                if branch_of(name) != "head":  # the head stays in FP32
                    largest[name] = max(largest.get(name, 0.0), peak)
        return cls(largest, constants or {})

    @property
    def wide(self) -> frozenset[str]:
        """The names of the tensors that stay in FP32."""
        beyond = {name for name, value in self.largest.items() if not value <= FP16_MAX}
        return frozenset(beyond | self.constants.keys())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the report that name what stays in FP32 and what comes near the end of FP16's range."""
        lines = []
        if self.wide:
            found = {name: max(self.constants.get(name, 0.0), self.largest.get(name, 0.0)) for name in self.wide}
            lines.append(f"beyond FP16's {FP16_MAX:,.0f}, so these layers stay in FP32: {_listed(found)}")
        near = {name: value for name, value in self.largest.items() if value > FP16_WARNING and name not in self.wide}
        if near:
            lines.append(
                f"activations above {FP16_WARNING:,.0f} in FP16 (its largest number is {FP16_MAX:,.0f}): "
                f"{_listed(near)}; a brighter or stranger image may overflow: FP32 is safer here"
            )
        return tuple(lines)


def _listed(values: Mapping[str, float]) -> str:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    more = f", and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return ", ".join(f"{name} ({value:,.0f})" for name, value in ordered[:MAX_LISTED]) + more
