"""Brings channels to the same range before quantization, without changing what the graph computes.

A quantized activation has one scale for all of its channels, so a channel whose values stay a hundred times below
another's is left with two or three levels. Dividing each channel by a factor of its own and multiplying it back later
changes nothing in float and evens them out in INT8 (cross-layer equalization: Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", 2019; with factors between activations and weights: Xiao et al.,
"SmoothQuant", 2023). The division goes into the convolutions before, whose weights have a scale for each output
channel and so lose nothing; the multiplication into the weights of the convolutions behind. What meets in an addition
is divided alike: a residual stream has one factor for each channel, from its first convolution to its last. A Clip at 6
would have to cut each channel at 6 over its factor: with the factors that bring every channel to the same peak this is
that peak for all channels that reach 6, and for the others above it, so that one limit serves them all; a channel of
which less was seen is cut a quarter above that, where its bytes would end anyway. Only where something else stands
before a convolution, or the stream ends in a pooling, does a Mul do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from ...runtime.preprocess import scaled_values
from ...runtime.spec import ModelSpec
from ..convert.graph_reading import arrays, gives_float, groups_of, integers_of, is_affine, producers, takers
from ..convert.graph_writer import GraphWriter
from .channel_groups import HOMOGENEOUS, ChannelGroup, channel_groups

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# a channel is widened by no more than this: behind a ReLU it may have a long negative side that was never measured
MAX_WIDENING = 64.0
PIXELS = "cnn/pixels"  # the image on the grid of signed bytes
BYTE_ZERO = 128  # the pixel that is zero as a signed byte
CLIPPED_MARGIN = 1.25  # a channel below its Clip's limit may become so much larger than it was measured
MIN_CHANNELS = 4  # channels; a tensor of fewer is the image, whose channels are alike


@dataclass(frozen=True)
class PixelGrid:
    """What pixels are in a model's inputs, where only 256 values occur.

    Attributes:
        image: the smallest and largest value of ``image``; ``sequence`` likewise.
        step: between the values of two neighbouring pixels; None where the channels differ in it.
        offset: what each channel has to be moved by so that pixel 128 is zero, (C,), or (1,) for all alike.
    """

    image: tuple[float, float] = (-1.0, 1.0)
    sequence: tuple[float, float] = (-1.0, 1.0)
    step: float | None = 2 / 255
    offset: tuple[float, ...] = (-1 / 255,)

    @classmethod
    def of(cls, spec: ModelSpec) -> PixelGrid:
        """Return the grid of a spec's scaling; that of xception by default."""
        if spec.scaling == "xception":
            return cls()
        table = np.asarray(scaled_values(spec.scaling, spec.channels), np.float64)
        low, high = table[0], table[-1]
        steps = np.unique((high - low) / (len(table) - 1))
        step = float(steps[0]) if len(steps) == 1 else None
        offset = tuple(dict.fromkeys(float(-value - BYTE_ZERO * (step or 0)) for value in low))
        return cls((float(low.min()), float(high.max())), (float(low.mean()), float(high.mean())), step, offset)


@dataclass
class _Convolution:
    weight: Float64
    bias: Float64 | None
    groups: int

    @property
    def by_input(self) -> Float64:
        """The weight as a view (G, O / G, I / G, H, W), whose first and third axis are the input's channels."""
        outputs, *others = self.weight.shape
        return self.weight.reshape(self.groups, outputs // self.groups, *others)


class EvenedGraph(NamedTuple):
    """A graph whose channels were evened out, and the mean of each channel that a convolution takes, by its name.

    ``factors`` are what each channel of a tensor was divided by, (C,), by the tensor; of what is not among them the
    graph computes what its source does. They are None where a Clip was moved, beyond which the two are not alike.
    """

    graph: onnx.ModelProto
    means: Mapping[str, Float64]
    factors: Mapping[str, Float64] | None = None


def even_channels(
    source: onnx.ModelProto,
    peaks: Mapping[str, Float32],
    means: Mapping[str, Float64] | None = None,
    grid: PixelGrid | None = None,
) -> EvenedGraph:
    """Rewrite an FP32 graph so that the channels of what will be quantized have similar ranges.

    The source, as ``GraphBuilder`` writes it, is not changed. ``peaks`` are the largest |value| of each channel, (C,),
    by the tensors that ``channel_tensors`` names, ``means`` the mean of each, likewise; ``grid`` says what pixels are.
    """
    equalizer = _Equalizer(source, peaks, means or {}, grid or PixelGrid())
    graph = equalizer.write()
    return EvenedGraph(graph, equalizer.input_means, equalizer.factors)


class _Equalizer:
    """Scales the convolutions of one graph, and writes them; ``input_means`` follow."""

    def __init__(
        self, source: onnx.ModelProto, peaks: Mapping[str, Float32], means: Mapping[str, Float64], grid: PixelGrid
    ) -> None:
        self._source = source
        self._grid = grid
        self._peaks = peaks
        self.input_means = {
            node.name: np.asarray(means[node.input[0]], np.float64)
            for node in source.graph.node
            if node.op_type == "Conv" and node.input[0] in means
        }
        self._makers = producers(source.graph.node)
        self._takers = takers(source.graph.node)
        self._constants = arrays(source)
        self._convolutions = {
            node.name: _convolution(node, self._constants) for node in source.graph.node if node.op_type == "Conv"
        }
        self._aligned = ""  # the convolution that takes moved pixels
        self._inserted: dict[tuple[str, str], Float32] = {}  # (tensor, node that takes it): a Mul between them
        self._limits: dict[str, Float32] = {}  # of Clips, by name
        self._factors_of: dict[str, Float64] = {}  # by tensor

    @property
    def factors(self) -> Mapping[str, Float64] | None:
        """What each channel of a tensor is divided by; None where a Clip was moved."""
        return None if self._limits else self._factors_of

    def write(self) -> onnx.ModelProto:
        """Write the graph with other weights, and Mul nodes where they are needed."""
        for node in self._source.graph.node:
            if node.op_type == "Conv":
                self._align_pixels(node)
        for group in channel_groups(self._source):
            if group.whole and self._is_evenable(group):
                self._even(group)
            else:
                for name, node in group.takers:
                    if not is_affine(node):  # a Mul before it would cost as much as it does
                        self._even_input(name, node)
        return self._written()

    def _align_pixels(self, node: onnx.NodeProto) -> None:
        """Move the first convolution's input onto the grid of signed bytes, and its bias back.

        Pixels are 8-bit numbers already, by default (p - 127.5) / 127.5, but zero is none of them, and INT8 needs zero:
        every pixel would be half a step off. Moved by half a step they are exact. Zeros of a padding would move too, so
        a padded convolution stays as it is.
        """
        own, maker = self._convolutions[node.name], self._makers.get(node.input[0])
        pads = integers_of(node, "pads")
        automatic = any(item.name == "auto_pad" and item.s not in (b"NOTSET", b"VALID") for item in node.attribute)
        if maker is None or list(maker.input) != ["image"] or any(pads) or automatic or own.bias is None:
            return
        if self._grid.step is None:
            return
        offset = np.array(self._grid.offset)
        if len(offset) == 1:
            own.bias -= offset * own.weight.sum(axis=(1, 2, 3))
        else:
            own.bias -= own.weight.sum(axis=(2, 3)) @ offset
        self._aligned = node.name
        if node.name in self.input_means:
            self.input_means[node.name] = self.input_means[node.name] + offset

    def _is_evenable(self, group: ChannelGroup) -> bool:
        """Tell whether no other Mul is needed than behind a pooling, and whether there is at most one limit to keep."""
        clipped = {node.output[0] for node in group.clips}
        taken = {name for name, _ in group.takers}
        return all(self._is_pooled(name) for name, _ in group.leaving) and (
            not clipped or (len(clipped) == 1 and taken <= clipped)
        )

    def _is_pooled(self, tensor: str) -> bool:
        """Tell whether a tensor has one value for each channel, so that multiplying it back costs nothing."""
        return self._makers[tensor].op_type == "GlobalAveragePool"

    def _even(self, group: ChannelGroup) -> None:
        """Divide each channel of a group by a factor where it is made, and multiply it back where it is taken."""
        factors = self._clipped_factors(group.clips[0]) if group.clips else self._common_factors(group)
        if factors is None:
            return
        self._factors_of |= dict.fromkeys(group.tensors, factors)
        for node in group.makers:
            _divide(self._convolutions[node.name], factors)
        for _, node in group.takers:
            self._multiply_back(node, factors)
        for name, node in group.leaving:
            self._inserted[name, node.name] = factors.astype(np.float32).reshape(1, -1, 1, 1)

    def _even_input(self, tensor: str, node: onnx.NodeProto) -> None:
        """Divide what a convolution takes with a Mul just before it."""
        factors = self._factors(tensor, self._column_peaks(node))
        if factors is not None:
            self._inserted[tensor, node.name] = (1 / factors).astype(np.float32).reshape(1, -1, 1, 1)
            self._multiply_back(node, factors)

    def _multiply_back(self, node: onnx.NodeProto, factors: Float64) -> None:
        own = self._convolutions[node.name]
        parts = own.by_input
        parts *= factors.reshape(own.groups, 1, -1, 1, 1)
        if node.name in self.input_means:
            self.input_means[node.name] = self.input_means[node.name] / factors

    def _column_peaks(self, node: onnx.NodeProto) -> Float64 | None:
        """Return the largest |weight| that each input channel meets; None where each has a scale of its own anyway."""
        own = self._convolutions[node.name]
        alone = own.weight.shape[1] == 1 < own.groups
        return None if alone else np.asarray(np.abs(own.by_input).max(axis=(1, 3, 4)).reshape(-1), np.float64)

    def _common_factors(self, group: ChannelGroup) -> Float64 | None:
        """Compute what to divide each channel of a group by, (C,); None where there is nothing to even out."""
        stored = [
            self._end(node.output[0]) for node in group.makers if not gives_float(node, self._takers, self._constants)
        ]
        integers = dict.fromkeys([*(name for name, _ in group.takers), *stored])  # these will be integers
        if len(integers) == 1:
            only = self._column_peaks(group.takers[0][1]) if len(group.takers) == 1 else None
            return self._factors(next(iter(integers)), only)
        every = [factors for name in integers if (factors := self._factors(name, None)) is not None]
        # the geometric mean of the factors that each tensor would want
        return np.asarray(np.exp(np.mean(np.log(every), axis=0)), np.float64) if every else None

    def _clipped_factors(self, clip: onnx.NodeProto) -> Float64 | None:
        """Compute what to divide each channel of a group by that a Clip cuts, (C,), and note the Clip's new limit.

        That is the largest peak: a channel that reaches the old limit keeps its scale, and the others are cut above
        what was measured of them.
        """
        limit, tensor = float(self._constants[clip.input[2]].item()), clip.output[0]
        if tensor not in self._peaks:
            return None
        peaks = np.minimum(np.asarray(self._peaks[tensor], np.float64) * CLIPPED_MARGIN, limit)
        if len(peaks) < MIN_CHANNELS or not peaks.any():
            return None
        peak = peaks.max()
        self._limits[clip.name] = np.array(peak, np.float32)
        factors = np.where(peaks > 0, peaks / peak, 1.0)
        return np.asarray(np.maximum(factors, 1 / MAX_WIDENING), np.float64)

    def _factors(self, tensor: str, weights: Float64 | None) -> Float64 | None:
        """Compute what to divide each channel by, (C,); the widest stays as it is. None: there is nothing to even."""
        if tensor not in self._peaks or len(self._peaks[tensor]) < MIN_CHANNELS:
            return None
        peaks = np.asarray(self._peaks[tensor], np.float64)
        if not peaks.any():
            return None
        wide = peaks if weights is None else np.sqrt(peaks / np.maximum(weights, 1e-12))
        alive = (peaks > 0) if weights is None else (peaks > 0) & (weights > 0)
        # no channel may become wider than the widest one was
        factors = np.where(alive, wide, wide[alive].max(initial=1))
        factors = factors / (factors.max() if weights is None else (peaks / factors).max() ** -1 * peaks.max())
        return np.asarray(np.maximum(factors, factors.max() / MAX_WIDENING), np.float64)

    def _end(self, tensor: str) -> str:
        """Return the tensor behind the ReLU and pooling that alone take a tensor."""
        while len(self._takers[tensor]) == 1 and self._takers[tensor][0].op_type in HOMOGENEOUS:
            tensor = self._takers[tensor][0].output[0]
        return tensor

    def _written(self) -> onnx.ModelProto:
        writer = GraphWriter(self._source.graph.name)
        writer.graph.input.extend(self._source.graph.input)
        for node in self._source.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for index, name in enumerate(node.input):
                if (name, node.name) in self._inserted:
                    copy.input[index] = self._multiply(writer, name, node, index)
            if node.op_type == "Conv":
                self._store(writer, copy)
            if node.name in self._limits:
                copy.input[2] = writer.constant(f"{node.name}/limit", self._limits[node.name])
            if node.name == self._aligned:
                offset = np.array(self._grid.offset, np.float32)
                shape = () if len(offset) == 1 else (1, -1, 1, 1)
                step = writer.constant(f"{PIXELS}/half_step", offset.reshape(shape))
                copy.input[0] = writer.node("Add", [copy.input[0], step], PIXELS)
            writer.graph.node.append(copy)
        taken = {name for node in writer.graph.node for name in node.input}
        for name in self._constants:
            if name in taken:
                writer.constant(name, self._constants[name])
        writer.graph.output.extend(self._source.graph.output)
        writer.model.opset_import.extend(self._source.opset_import)
        writer.model.ir_version = self._source.ir_version
        writer.model.producer_name = self._source.producer_name
        return writer.model

    def _store(self, writer: GraphWriter, node: onnx.NodeProto) -> None:
        """Write a convolution's own constants: tf2onnx gives equal ones once, and they are not equal any more."""
        own = self._convolutions[node.name]
        node.input[1] = writer.constant(f"{node.name}/kernel", own.weight.astype(np.float32))
        if own.bias is not None:
            node.input[2] = writer.constant(f"{node.name}/bias", own.bias.astype(np.float32))

    def _multiply(self, writer: GraphWriter, tensor: str, node: onnx.NodeProto, index: int) -> str:
        name = f"{node.name}/evened_{index}"
        factors = writer.constant(f"{name}/factors", self._inserted[tensor, node.name])
        return writer.node("Mul", [tensor, factors], name)


def channel_tensors(source: onnx.ModelProto) -> list[str]:
    """Name the activations whose channels ``even_channels`` asks for: what convolutions take and make, (N, C, H, W)."""
    names: dict[str, None] = {}
    made = producers(source.graph.node)
    for node in source.graph.node:
        if node.op_type == "Conv":
            names |= {node.input[0]: None, node.output[0]: None}
        elif node.op_type in HOMOGENEOUS and node.name.startswith("cnn/"):
            names[node.output[0]] = None
    return [name for name in names if name in made]


def _convolution(node: onnx.NodeProto, constants: Mapping[str, npt.NDArray[np.generic]]) -> _Convolution:
    weight = np.array(constants[node.input[1]], np.float64)
    bias = np.array(constants[node.input[2]], np.float64) if len(node.input) > 2 else None
    return _Convolution(weight, bias, groups_of(node))


def _divide(convolution: _Convolution, factors: Float64) -> None:
    convolution.weight /= factors.reshape(-1, 1, 1, 1)
    if convolution.bias is not None:
        convolution.bias /= factors
