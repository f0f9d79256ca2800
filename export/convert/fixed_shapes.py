"""Makes shapes that a graph computes, but for the batch, into constants where onnx can't infer what they come to.

    x ─► Shape ─► Gather ─► ReduceProd ─► Concat ─► Reshape    ──►    x ─► Reshape to (-1, 16, 6)

tf2onnx writes the products of attention so. With constants the shape of everything behind is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from .graph_reading import producers, skeleton

BATCHES = (5, 7)  # two sizes, neither a likely dimension of anything else
Dims = Mapping[str, tuple[int, ...]]


def fix_shapes(model: onnx.ModelProto) -> None:
    """Give each such Reshape a constant shape, in place, whose one unknown dimension is -1."""
    while any(list(_fix(model))):
        pass


def _fix(model: onnx.ModelProto) -> Iterable[bool]:
    computed = [node for node in model.graph.node if node.op_type == "Reshape" and _is_computed(node, model)]
    if not computed:
        return
    found = [_concrete(model, batch) for batch in BATCHES]
    for node in computed:
        if node.output[0] in found[0]:
            continue
        first, second = (_result(model, node, dims) for dims in found)
        if first is not None and second is not None:
            fixed = np.where(first == second, first, -1)
            if (fixed == -1).sum() <= 1:
                name = f"{node.name}/shape"
                model.graph.initializer.append(numpy_helper.from_array(fixed.astype(np.int64), name))
                node.input[1] = name
                yield True


def _result(model: onnx.ModelProto, node: onnx.NodeProto, dims: Dims) -> npt.NDArray[Any] | None:
    """Compute the shape that a Reshape gives, without -1; None where it takes something of unknown shape."""
    shape = _evaluate(model, node.input[1], dims)
    if shape is None or node.input[0] not in dims or (shape == 0).any():
        return None
    known = shape[shape != -1]
    return np.where(shape == -1, math.prod(dims[node.input[0]]) // max(1, math.prod(known.tolist())), shape)


def _is_computed(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    return all(tensor.name != node.input[1] for tensor in model.graph.initializer)


def _concrete(model: onnx.ModelProto, batch: int) -> Dims:
    """Infer the shapes of all tensors for one size of the batch."""
    bare = skeleton(model)
    for value in bare.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = batch
    del bare.graph.output[:]
    graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    known: dict[str, tuple[int, ...]] = {}
    for value in (*graph.input, *graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            known[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return known


def _evaluate(model: onnx.ModelProto, name: str, dims: Dims) -> npt.NDArray[Any] | None:
    """Compute a shape from the shapes of others; None where one of these is not known."""
    makers, constants = producers(model.graph.node), {tensor.name: tensor for tensor in model.graph.initializer}
    given: dict[str, npt.NDArray[Any]] = {}
    needed: list[onnx.NodeProto] = []
    left = [name]
    while left:
        wanted = left.pop()
        node = makers.get(wanted)
        if not wanted or wanted in constants or any(item is node for item in needed):
            continue
        if node is None:
            return None
        if node.op_type == "Shape" and not node.attribute:
            if node.input[0] not in dims:
                return None
            given[wanted] = np.array(dims[node.input[0]], np.int64)
        else:
            needed.append(node)
            left.extend(node.input)
    order = {id(node): place for place, node in enumerate(model.graph.node)}
    graph = onnx.helper.make_graph(
        sorted(needed, key=lambda node: order[id(node)]),
        "shape",
        [onnx.helper.make_tensor_value_info(key, onnx.TensorProto.INT64, value.shape) for key, value in given.items()],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)],
        [tensor for key, tensor in constants.items() if any(key in node.input for node in needed)],
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    (shape,) = ReferenceEvaluator(part).run(None, given)
    return np.asarray(shape)
