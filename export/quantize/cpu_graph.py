"""Writes the INT8 graph for ONNX Runtime on a CPU: what is fastest there, which is another graph than TensorRT's.

    residual stream ┬────────────────────────── float ──────────────────────────► Add ──► residual stream
                    └─► Q ──► [DQ ─► Conv ─► Q] ──► [DQ ─► Conv ─► Q] ──► MatMul ──┘
    sequence ──► Q ──► MatMul ──► Add bias ──► Split into steps ──► Add ──► gates ──► c_t, h_t in float
                                  h_{t-1} ──► Q ──► MatMul ──────────┘
    Q, DQ: QuantizeLinear, DequantizeLinear; [ ]: fused by ONNX Runtime into one operator; MatMul: MatMulIntegerToFloat

A convolution has unsigned activations, signed weights with a scale for each output channel, and a quantized output too,
which ONNX Runtime needs to fuse it into one integer operator. Additions of the residual stream and the global average
stay in float, and a pointwise convolution that goes straight into one is a matrix product that gives floats; a ReLU or
a Clip in front of a quantization is left to the ends of its bytes, and a concatenation for convolutions is of bytes.
Weights that a CPU without VNNI adds up in 16 bits fit there (see ``int8_weights``), so that one graph computes the same
on every CPU. The recurrent branch is unrolled and takes QuantizeLinear with a constant scale and MatMulIntegerToFloat:
static Q/DQ pairs, as TensorRT wants them, are some 50 times slower there, and the dynamic operators take one scale over
the whole batch, so that a row's result depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ...calib import Range
from ..convert.fp32_graph import IR_VERSION, OPSET, set_versions
from ..convert.graph_reading import (
    CONTRIBUTED,
    IN_BLOCKS,
    POINTWISE,
    STEP_PART,
    arrays,
    constant_shapes,
    gives_float,
    groups_of,
    integers_of,
    layer_of,
    producers,
    range_key,
    takers,
    tensor_ranks,
)
from ..convert.graph_writer import GraphWriter
from .int8_weights import (
    BLOCK,
    LEVELS,
    QuantizedWeight,
    Rounder,
    bias_correction,
    quantize_bias,
    quantize_blocks,
    quantize_weight,
    smallest_for_bias,
    unsigned_scale,
)

Float32 = npt.NDArray[np.float32]

IMAGE_RANK = 4  # (N, C, H, W)
INTEGER_PRODUCTS = 4  # MatMulNBits's accuracy level of 8-bit products; without it 8-bit weights take 20 times as long
TOLERANCE = 1e-6  # relative, of a range's end


class CpuGraph:
    """Rewrites an FP32 graph, as ``GraphBuilder`` writes it, node by node; the source is not changed.

    The source is unrolled where the recurrent branch is to be quantized. ``ranges`` says what each tensor covers, by
    ``range_key``; ``quantized`` names the layers that run in INT8; the integer of a weight is ``levels`` at most. With
    ``paired`` weights are scaled so that no two saturate together on a CPU without VNNI. ``means`` is the mean of each
    channel that a convolution takes, (C,), by the convolution's name; its bias makes up for rounded weights by it.
    ``rounder`` rounds the weights of matrix products; by default each weight goes to the nearest integer. The
    steps of the recurrent layers ``in_blocks`` multiply floats by weights of 8 bits in blocks.
    """

    def __init__(
        self,
        source: onnx.ModelProto,
        ranges: Mapping[str, Range],
        quantized: Collection[str],
        *,
        levels: int = LEVELS,
        paired: bool = True,
        means: Mapping[str, npt.NDArray[np.float64]] | None = None,
        rounder: Rounder | None = None,
        in_blocks: Collection[str] = (),
    ) -> None:
        self._source = source
        self._ranges = ranges
        self._quantized = frozenset(quantized)
        self._in_blocks = frozenset(in_blocks)
        self._levels = levels
        self._paired = paired
        self._means = means or {}
        self._rounder = rounder or Rounder()
        self._arrays = arrays(source)
        self._shapes = constant_shapes(source)
        self._rows = {name for name, rank in tensor_ranks(source).items() if rank < IMAGE_RANK}
        self._makers = producers(source.graph.node)
        self._takers = takers(source.graph.node)
        self._writer = GraphWriter(source.graph.name)
        self._shared: dict[str, list[str]] = {}  # a product's constants, by its weight

    def write(self) -> onnx.ModelProto:
        """Write the graph: opset 17, IR 8, and ONNX Runtime's own domain where a matrix product is quantized."""
        self._writer.graph.input.extend(self._source.graph.input)
        for node in self._source.graph.node:
            if layer_of(node, self._shapes) in self._in_blocks and STEP_PART.match(node.name):
                self._product_in_blocks(node)
            elif not self._runs(node):
                self._plain(node)
            elif node.op_type == "Conv" and self._gives_float(node):
                self._pointwise(node)
            elif node.op_type == "Conv":
                self._convolution(node)
            else:
                self._product(node)
        self._writer.graph.output.extend(self._source.graph.output)
        set_versions(self._writer.model, OPSET, IR_VERSION)
        if any(node.domain == CONTRIBUTED for node in self._writer.graph.node):
            self._writer.model.opset_import.append(onnx.helper.make_opsetid(CONTRIBUTED, 1))
        return self._writer.model

    def _plain(self, node: onnx.NodeProto) -> None:
        if node.op_type == "GlobalAveragePool" and node.input[0] not in self._rows:
            value = self._input(node.input[0])  # ONNX Runtime can't move a transposition past a pooling
            self._writer.node("ReduceMean", [value], node.output[0], axes=[2, 3], keepdims=1)
        elif node.op_type == "Concat" and self._joins_integers(node):
            self._writer.copy(node, [self._dequantized(name) for name in node.input])
        elif not self._is_clipped(node):
            self._writer.copy(node, [self._input(name) for name in node.input])

    def _convolution(self, node: onnx.NodeProto) -> None:
        scale = float(self._scale(node.input[0]))
        kernel = np.asarray(self._arrays[node.input[1]], np.float32)
        bias = self._bias(node, len(kernel))
        weight = quantize_weight(
            kernel,
            0,
            levels=self._levels,
            paired=self._paired and not _is_depthwise(node, kernel),
            smallest=smallest_for_bias(bias, scale),
        )
        bias = self._corrected(node, bias, kernel, weight)
        # named by the node: tf2onnx gives equal constants once, and their integers differ with the input's scale
        inputs = [self._dequantized(node.input[0]), self._stored(f"{node.name}/weight", weight.integers, weight.scales)]
        self._writer.copy(node, [*inputs, self._stored(f"{node.name}/bias", *quantize_bias(bias, scale, weight))])

    def _bias(self, node: onnx.NodeProto, channels: int) -> Float32:
        if len(node.input) > 2:
            return np.asarray(self._arrays[node.input[2]], np.float32)
        return np.zeros(channels, np.float32)

    def _corrected(self, node: onnx.NodeProto, bias: Float32, kernel: Float32, weight: QuantizedWeight) -> Float32:
        means = self._means.get(node.name)
        if means is None:
            return bias
        return np.asarray(bias + bias_correction(kernel, weight, means), np.float32)

    def _gives_float(self, node: onnx.NodeProto) -> bool:
        return gives_float(node, self._takers, self._arrays)

    def _pointwise(self, node: onnx.NodeProto) -> None:
        """Write a 1x1 convolution as a matrix product over the channels, moved last: integers in, floats out."""
        value, name = node.input[:2]
        kernel = np.asarray(self._arrays[name], np.float32)[:, :, 0, 0].T
        weight = quantize_weight(np.ascontiguousarray(kernel), 1, levels=self._levels, paired=self._paired)
        scale, zero = self._parameters(value)
        bias = self._bias(node, len(weight.scales))
        whole = replace(weight, integers=weight.integers.T[:, :, None, None], axis=0)
        bias = self._corrected(node, bias, np.asarray(self._arrays[name], np.float32), whole)
        last = self._writer.node("Transpose", [self._integers(value)], f"{node.name}/channels_last", perm=[0, 2, 3, 1])
        strides = integers_of(node, "strides") or [1, 1]
        if strides != [1, 1]:
            last = self._strided(last, strides, node.name)
        inputs = [last, *self._product_constants(f"{node.name}/weight", weight, scale, zero)]
        inputs.append(self._writer.constant(f"{node.name}/bias", bias))
        product = self._writer.node("MatMulIntegerToFloat", inputs, f"{node.name}{POINTWISE}", domain=CONTRIBUTED)
        self._writer.node("Transpose", [product], node.output[0], perm=[0, 3, 1, 2])

    def _strided(self, value: str, strides: list[int], name: str) -> str:
        """Write the slice of (N, H, W, C) to the rows and columns that a pointwise convolution with strides takes."""
        parts = {"first": [0, 0], "last": [np.iinfo(np.int64).max] * 2, "axes": [1, 2], "strides": strides}
        inputs = [self._writer.constant(f"{name}/{key}", np.array(part, np.int64)) for key, part in parts.items()]
        return self._writer.node("Slice", [value, *inputs], f"{name}/strided")

    def _product_constants(self, name: str, weight: QuantizedWeight, scale: str, zero: str) -> list[str]:
        """Write what MatMulIntegerToFloat takes behind its first input, and return these names in its order."""
        zeros = np.zeros(len(weight.scales), np.int8)
        integers = self._writer.constant(f"{name}/integers", weight.integers)
        scales = self._writer.constant(f"{name}/scales", weight.scales)
        return [integers, scale, scales, zero, self._writer.constant(f"{name}/zeros", zeros)]

    def _stored(self, name: str, integers: npt.NDArray[Any], scales: npt.NDArray[Any]) -> str:
        names = [
            self._writer.constant(f"{name}/integers", integers),
            self._writer.constant(f"{name}/scales", scales),
            self._writer.constant(f"{name}/zeros", np.zeros(len(scales), integers.dtype)),
        ]
        return self._writer.node("DequantizeLinear", names, f"{name}/dequantized", axis=0)

    def _product(self, node: onnx.NodeProto) -> None:
        """Write a quantized matrix product; the steps of an LSTM share its weights."""
        value, name = node.input
        scale, zero = self._parameters(value)
        if name not in self._shared:
            kernel = np.asarray(self._arrays[name], np.float32)
            weight = self._rounder.round(name, kernel, range_key(value), levels=self._levels, paired=self._paired)
            self._shared[name] = self._product_constants(name, weight, scale, zero)
        integers, _, scales, _, zeros = self._shared[name]
        inputs = [self._integers(value), integers, scale, scales, zero, zeros]
        self._writer.node("MatMulIntegerToFloat", inputs, node.output[0], domain=CONTRIBUTED)

    def _product_in_blocks(self, node: onnx.NodeProto) -> None:
        """Write a product of floats by weights in blocks; the operator rounds each row of its input by itself."""
        value, name = node.input
        inputs, outputs = self._shapes[name]
        if name not in self._shared:
            integers, scales = quantize_blocks(np.asarray(self._arrays[name], np.float32))
            stored = self._writer.constant(f"{name}/integers", integers)
            self._shared[name] = [stored, self._writer.constant(f"{name}/scales", scales)]
        sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": BLOCK, "accuracy_level": INTEGER_PRODUCTS}
        self._writer.node(
            IN_BLOCKS, [self._input(value), *self._shared[name]], node.output[0], domain=CONTRIBUTED, **sizes
        )

    def _input(self, name: str) -> str:
        """Return what a float node takes: a quantized convolution's result dequantized, anything else as it is."""
        return self._dequantized(name) if self._is_stored(name) else self._constant(name)

    def _is_stored(self, name: str) -> bool:
        """Tell whether a tensor is kept as integers: a quantized convolution's result, or a concatenation for such.

        Where a Relu or a Clip that quantization stands in for alone takes the convolution's, it is what that gives.
        """
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "Concat":
            return self._joins_integers(maker)
        if maker is not None and self._clips(maker) and self._only_clipped(maker.input[0]):
            maker = self._makers.get(maker.input[0])
        elif self._only_clipped(name):
            return False
        return maker is not None and maker.op_type == "Conv" and self._runs(maker) and not self._gives_float(maker)

    def _joins_integers(self, node: onnx.NodeProto) -> bool:
        """Tell whether a concatenation of channels goes into quantized convolutions and other such ones alone."""
        axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
        behind = self._takers[node.output[0]]
        return (
            axis == 1
            and range_key(node.output[0]) in self._ranges
            and bool(behind)
            and all(
                self._joins_integers(other)
                if other.op_type == "Concat"
                else other.op_type == "Conv" and self._runs(other)
                for other in behind
            )
        )

    def _runs(self, node: onnx.NodeProto) -> bool:
        return layer_of(node, self._shapes) in self._quantized

    def _only_clipped(self, name: str) -> bool:
        behind = self._takers[name]
        return bool(behind) and len({node.op_type for node in behind}) == 1 and all(map(self._clips, behind))

    def _clips(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node cuts off what is negative, and what is above the range that its result's bytes cover."""
        if node.op_type == "Relu":
            return True
        key = range_key(node.output[0])
        if (
            node.op_type != "Clip"
            or key not in self._ranges
            or any(name not in self._arrays for name in node.input[1:])
        ):
            return False
        low, high = (float(self._arrays[name]) for name in node.input[1:3])
        return low == 0 and self._ranges[key].low >= 0 and self._ranges[key].high <= high * (1 + TOLERANCE)

    def _constant(self, name: str) -> str:
        if name in self._arrays and self._writer.is_new(name):
            self._writer.constant(name, self._arrays[name])
        return name

    def _dequantized(self, name: str) -> str:
        if self._writer.is_new(f"{name}/dequantized"):
            scale, zero = self._parameters(name)
            self._writer.node("DequantizeLinear", [self._integers(name), scale, zero], f"{name}/dequantized")
        return f"{name}/dequantized"

    def _integers(self, name: str) -> str:
        if self._writer.is_new(f"{name}/quantized"):
            maker = self._makers.get(name)
            source = maker.input[0] if maker is not None and self._is_clipped(maker) else name
            self._writer.node("QuantizeLinear", [source, *self._parameters(name)], f"{name}/quantized")
        return f"{name}/quantized"

    def _is_clipped(self, node: onnx.NodeProto) -> bool:
        """Tell whether a Relu or a Clip is left to the quantization behind it, whose bytes begin and end where it cuts.

        A Relu behind a quantized convolution is left to ONNX Runtime, which sees the same.
        """
        name = node.output[0]
        if not self._clips(node) or range_key(name) not in self._ranges:
            return False
        if self._is_stored(name):
            return node.op_type == "Clip"
        quantized = all(other.op_type == "Conv" and self._runs(other) for other in self._takers[name])
        return quantized and int(unsigned_scale(self._ranges[range_key(name)])[1]) == 0

    def _parameters(self, name: str) -> tuple[str, str]:
        key = range_key(name)
        if self._writer.is_new(f"{key}/scale"):
            scale, zero = unsigned_scale(self._ranges[key])
            self._writer.constant(f"{key}/scale", scale)
            self._writer.constant(f"{key}/zero", zero)
        return f"{key}/scale", f"{key}/zero"

    def _scale(self, name: str) -> np.float32:
        return np.float32(unsigned_scale(self._ranges[range_key(name)])[0])


def _is_depthwise(node: onnx.NodeProto, kernel: Float32) -> bool:
    """Tell whether each channel has a filter of its own, for which no CPU adds products up in 16 bits."""
    return groups_of(node) == len(kernel) > 1 and kernel.shape[1] == 1
