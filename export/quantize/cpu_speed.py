"""Rewrites INT8 graphs for the CPU into ones that compute the same and run faster there.

    728 channels of a depthwise convolution = 45 vectors of 16, and 8 more     slow kernel
    728 channels + 8 channels of zeros      = 46 vectors of 16                 fast kernel

ONNX Runtime has two kernels for integer depthwise convolutions on x86. The fast one takes channels in multiples of 16
only (MlasConvSymPackWSize in its mlas/lib/convsym.cpp); Xception's middle flow has 728, and with 736 its depthwise
convolutions take a third of the time.

    images (N, S, S, 3) ──► Scan: one image at a time through the CNN ──► features (N, F) ──► recurrent branch, head

What one image makes stays in a CPU's cache, what eight make does not. The recurrent branch and the head still take the
whole batch, and read their weights once for it. The same operators work on the same numbers, so not a bit of the result
changes. At full size, in INT8, with two threads, a batch of eight takes 154 ms in place of 167, a single image as long
as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..convert.graph_reading import arrays, branch_of, groups_of, tensor_shapes
from .channel_groups import ChannelGroup, channel_groups

VECTOR_CHANNELS = 16

Float64 = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.generic]]
SCAN_NAME = "cnn/each_image"  # the name of the Scan
MIN_LARGE_VALUES = 2**20  # values of one image's largest activation: as bytes, about what a core's own cache holds
IMAGE = "image"


def fill_channels(source: onnx.ModelProto, means: Mapping[str, Float64]) -> tuple[onnx.ModelProto, dict[str, Float64]]:
    """Return a copy in which every depthwise convolution whose channels stay in the CNN has a multiple of 16 of them.

    The source is FP32, convolutions as (N, C, H, W), and returned itself where nothing is missing. ``means`` is the
    mean of each channel that a convolution takes, (C,), by the convolution's name; in those returned the added channels
    have 0.
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
    return -len(constants[grouped[0].input[1]]) % VECTOR_CHANNELS


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


def one_image_at_a_time(model: onnx.ModelProto, large: int = MIN_LARGE_VALUES) -> onnx.ModelProto:
    """Return a copy whose CNN takes one image at a time, or the model itself where none of its activations is large.

    The model is a graph for the CPU, opset 17, with a symbolic batch; from ``large`` values on an activation is large.
    """
    inside = [node for node in model.graph.node if branch_of(node.name) == "cnn"]
    outside = [node for node in model.graph.node if branch_of(node.name) != "cnn"]
    made = {name for node in inside for name in node.output}
    leaving = list(dict.fromkeys(name for node in outside for name in node.input if name in made))
    shapes, constants = tensor_shapes(model), {tensor.name for tensor in model.graph.initializer}
    outside_made = {name for node in outside for name in node.output}
    if any(not outside_made.isdisjoint(node.input) for node in inside):  # a recurrent layer between convolutions
        return model
    activations = [name for node in inside if not constants.issuperset(node.input) for name in node.output]
    if len(leaving) != 1 or max(shapes[name].size for name in activations) < large:
        return model
    body = _body(inside, leaving[0], shapes[IMAGE].dims[1:], _taken(model.graph.initializer, inside))
    scan = helper.make_node("Scan", [IMAGE], ["cnn/features"], name=SCAN_NAME, num_scan_inputs=1, body=body)
    graph = helper.make_graph(
        [scan, *(_renamed(node, leaving[0], "cnn/features") for node in outside)],
        model.graph.name,
        model.graph.input,
        model.graph.output,
        _taken(model.graph.initializer, outside),
    )
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name=model.producer_name
    )


def _body(
    nodes: Sequence[onnx.NodeProto], result: str, image: tuple[int, ...], constants: list[onnx.TensorProto]
) -> onnx.GraphProto:
    """Make the Scan's body, which takes one image (H, W, 3) to what leaves the CNN, without the batch axis."""
    axis = numpy_helper.from_array(np.array([0], np.int64), "cnn/batch_axis")
    return helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["cnn/one", axis.name], ["cnn/batch_of_one"], name="cnn/batch_of_one"),
            *(_renamed(node, IMAGE, "cnn/batch_of_one") for node in nodes),
            helper.make_node("Squeeze", [result, axis.name], ["cnn/features_of_one"], name="cnn/features_of_one"),
        ],
        "cnn",
        [helper.make_tensor_value_info("cnn/one", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("cnn/features_of_one", TensorProto.FLOAT, None)],
        [*constants, axis],
    )


def _taken(constants: Iterable[onnx.TensorProto], nodes: Sequence[onnx.NodeProto]) -> list[onnx.TensorProto]:
    names = {name for node in nodes for name in node.input}
    return [tensor for tensor in constants if tensor.name in names]


def _renamed(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [new if name == old else name for name in node.input]
    return copy
