"""Strips a graph of its weights, and infers the types of its tensors."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto

__all__ = ["float_tensors", "skeleton", "tensor_types"]

MAX_KEPT = 1024  # values: shapes, axes and other constants that shape inference looks into


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with inputs in place of its weights: onnx's tools would copy 400 MB of weights three times."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > MAX_KEPT:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
        else:
            graph.initializer.append(tensor)
    return bare


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Infer the element type of every tensor, constants too, by name; a tensor that onnx can't reach is left out."""
    graph = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {value.name: value.type.tensor_type.elem_type for value in values} | constants


def float_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the tensors in FP32: inputs, constants, activations and outputs, not shapes and indices."""
    return frozenset(name for name, kind in tensor_types(model).items() if kind == TensorProto.FLOAT)
