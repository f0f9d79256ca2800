"""Adds channels of zeros, which change nothing, to fill the lanes of a CPU's vector unit.

    728 channels of a depthwise convolution = 45 vectors of 16, and 8 more     slow kernel
    728 channels + 8 channels of zeros      = 46 vectors of 16                 fast kernel

ONNX Runtime has two kernels for integer depthwise convolutions on x86. The fast one takes channels in multiples of 16
only (MlasConvSymPackWSize in its mlas/lib/convsym.cpp); Xception's middle flow has 728, and with 736 its depthwise
convolutions take a third of the time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from ..convert.layers import arrays
from .channels import ChannelGroup, channel_groups, groups_of

__all__ = ["LANES", "fill_lanes"]

LANES = 16

Float64 = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.generic]]


def fill_lanes(source: onnx.ModelProto, means: Mapping[str, Float64]) -> tuple[onnx.ModelProto, dict[str, Float64]]:
    """Return a copy in which every depthwise convolution whose channels stay in the CNN has a multiple of 16 of them.

    Args:
        source: an FP32 graph, convolutions as (N, C, H, W).
        means: the mean of each channel that a convolution takes, (C,), by the convolution's name.

    Returns:
        The graph, and the means, in which the added channels have 0. Where nothing is missing, it is ``source`` itself.
    """
    constants = arrays(source)
    added = {
        name: extra
        for group in channel_groups(source, through_depthwise=True)
        if (extra := _missing(group, constants))
        for name in group.tensors
    }
    if not added:
        return source, dict(means)
    model, wide = onnx.ModelProto(), dict(means)
    model.CopyFrom(source)
    for node in model.graph.node:
        if node.op_type == "Conv":
            outputs, taken = added.get(node.output[0], 0), added.get(node.input[0], 0)
            if outputs or taken:
                _widen(model, node, constants, outputs, 0 if groups_of(node) > 1 else taken)
            if taken and node.name in wide:
                wide[node.name] = np.pad(wide[node.name], (0, taken))
    _drop_unused(model)
    return model, wide


def _missing(group: ChannelGroup, constants: Arrays) -> int:
    """Count the channels that a group lacks; 0 where it has no depthwise convolution or must keep its channels."""
    if not group.whole or group.leaving:
        return 0
    grouped = [node for node in (*group.makers, *(node for _, node in group.takers)) if groups_of(node) > 1]
    if not grouped or any(groups_of(node) != len(constants[node.input[1]]) for node in grouped):
        return 0
    return -len(constants[grouped[0].input[1]]) % LANES


def _widen(model: onnx.ModelProto, node: onnx.NodeProto, constants: Arrays, outputs: int, taken: int) -> None:
    """Give a convolution more channels, in constants named after it, since tf2onnx gives equal constants once."""
    kernel = np.pad(constants[node.input[1]], ((0, outputs), (0, taken), (0, 0), (0, 0)))
    values = {1: kernel}
    if outputs and len(node.input) > 2:
        values[2] = np.pad(constants[node.input[2]], (0, outputs))
    for index, value in values.items():
        node.input[index] = f"{node.name}/{'kernel' if index == 1 else 'bias'}/filled"
        model.graph.initializer.append(numpy_helper.from_array(value, node.input[index]))
    for item in node.attribute:
        if item.name == "group" and item.i > 1:
            item.i += outputs


def _drop_unused(model: onnx.ModelProto) -> None:
    taken = {name for node in model.graph.node for name in node.input}
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in taken:
            del model.graph.initializer[index]
