"""Makes the graph that calibration runs, with every activation among its outputs, and chooses the ranges of these."""

from __future__ import annotations

import re
from collections import defaultdict

import onnx
from onnx import TensorProto, helper

from ...calib import Calibration, Method, Range, choose_range
from ..convert.fp32_graph import serialize
from ..convert.graph_parts import part_for, split_behind_image
from ..convert.graph_reading import (
    STEP_PART,
    branch_of,
    constant_shapes,
    float_tensors,
    quantizable,
    range_key,
)
from .equalize import PIXELS, PixelGrid

# one tensor for all steps of a layer; what else a step makes lies within [-1, 1] or is smaller than one of these
LSTM_STATES = ("recurrent", "gates", "cell", "hidden")
GRU_STATES = ("shifted", "reset", "recurrent_candidate", "sum")  # and the first two and the last of an LSTM
STATE_NAME = re.compile(rf"rnn/[^/]+/step_\d+/({'|'.join(LSTM_STATES + GRU_STATES)})")
UNIT_INTERVAL = (-1.0, 1.0)  # of hidden states
STEPS_BELOW_ZERO = {True: 127, False: 128}  # of a signed byte, by whether the range is symmetric
MAX_MOMENTS = 8192  # inputs of a product: the mean of x xᵀ takes 256 MiB then, and its inverse a minute


def measured_graph(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with each floating-point activation as an output; a layer's steps share one for each state.

    The source is a graph as ``GraphBuilder`` writes it in the unrolled form. The outputs are named as ``range_key``
    names their ranges: ``cnn/…`` (N, …), ``rnn/lstm_1/hidden`` (T, N, H), ``gates`` and ``recurrent`` (T - 1, N, 4H),
    ``cell`` (T - 1, N, H), those of a GRU likewise, and the head's.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source)
    steps: dict[str, list[str]] = defaultdict(list)
    names = []
    floats = float_tensors(source)
    for node in source.graph.node:
        for output in node.output:
            if STATE_NAME.fullmatch(output):
                steps[range_key(output)].append(output)
            elif output in floats and not STEP_PART.match(output):
                names.append(output)
    for key, parts in steps.items():
        model.graph.node.append(helper.make_node("Concat", parts, [key], name=key, axis=0))
    # the concatenation of a layer's hidden states is measured as its states
    measured = [name for name in dict.fromkeys(names) if range_key(name) == name] + list(steps)
    declared = {value.name for value in model.graph.output}
    for name in measured:
        if name not in declared:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def product_inputs(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return the part of ``measured_graph`` that makes what quantizable products take, (..., I); empty without any.

    A product of very many inputs, such as a Dense layer on a flattened image, is left out.
    """
    products = [node for nodes in quantizable(source).values() for node in nodes if node.op_type == "MatMul"]
    shapes = constant_shapes(source)
    wanted = {range_key(node.input[0]) for node in products if shapes[node.input[1]][0] <= MAX_MOMENTS}
    model = measured_graph(source)
    return part_for(model, [value.name for value in model.graph.output if value.name in wanted])


def measured_parts(source: onnx.ModelProto) -> tuple[bytes, ...]:
    """Serialize ``measured_graph``, that of a hybrid as two files: what the image alone makes, and what is behind it.

    The second takes what the first gives; the recurrent branch's weights are read once for many images there.
    """
    model = measured_graph(source)
    return tuple(serialize(part) for part in split_behind_image(model) or (model,))


def bounds(source: onnx.ModelProto, grid: PixelGrid | None = None) -> dict[str, tuple[float, float]]:
    """Return what tensors can't exceed: pixels, and their means, by their ``grid``, and hidden states (-1, 1)."""
    grid = grid or PixelGrid()
    inputs = {"image": grid.image, "sequence": grid.sequence}
    transposed = {
        node.output[0]: inputs[node.input[0]]
        for node in source.graph.node
        if node.op_type == "Transpose" and node.input[0] in inputs
    }
    hidden = {range_key(o): UNIT_INTERVAL for node in source.graph.node for o in node.output if o.endswith("/hidden")}
    return {
        **inputs,
        **transposed,
        **{k: v for k, v in hidden.items() if branch_of(k) == "rnn"},
    }


def choose_ranges(
    calibration: Calibration,
    graph: onnx.ModelProto,
    method: Method,
    *,
    symmetric: bool,
    grid: PixelGrid | None = None,
) -> dict[str, Range]:
    """Choose the range of every measured tensor, by its ``range_key``.

    ``calibration`` holds the statistics of ``graph``, which says which tensors are bounded by their mathematics.
    ``symmetric`` ranges are for signed INT8 with its zero at 0 (TensorRT), others for unsigned INT8 with a zero point;
    ``grid`` says what pixels are.
    """
    grid = grid or PixelGrid()
    limits = bounds(graph, grid)
    ranges = {
        name: choose_range(item, method, symmetric=symmetric, bounds=limits.get(name))
        for name, item in calibration.statistics.items()
    }
    # pixels are bytes: their grid is known, and any other range than its own would round them
    step = grid.step or 0.0
    bytes_ = Range(-STEPS_BELOW_ZERO[symmetric] * step, 127 * step)
    return ranges | ({PIXELS: bytes_} if PIXELS in ranges else {})
