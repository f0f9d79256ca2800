"""Infers the shape and type of every tensor of a graph, for one image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from ...runtime.errors import ConversionError
from ..convert.layers import CONTRIBUTED
from .types import skeleton

__all__ = ["TensorShape", "tensor_shapes"]


@dataclass(frozen=True)
class TensorShape:
    """The dimensions of one tensor, with 1 for the batch axis, and the bytes of one of its values."""

    dims: tuple[int, ...]
    itemsize: int

    @property
    def size(self) -> int:
        """The number of the tensor's values."""
        return math.prod(self.dims)


def tensor_shapes(model: onnx.ModelProto) -> dict[str, TensorShape]:
    """Infer the shape of every input, constant and tensor, by name, with a batch of one.

    Raises:
        ConversionError: shape inference does not reach a tensor.
    """
    bare = skeleton(model)
    for value in bare.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    del bare.graph.output[:]  # they declare the symbolic batch
    nodes = [part for node in bare.graph.node for part in _standard(node)]
    del bare.graph.node[:]
    bare.graph.node.extend(nodes)
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    found = {value.name: _shape(value.type.tensor_type) for value in (*inferred.input, *inferred.value_info)}
    found |= {
        tensor.name: TensorShape(tuple(tensor.dims), _itemsize(tensor.data_type)) for tensor in inferred.initializer
    }
    missing = [name for node in model.graph.node for name in node.output if name and found.get(name) is None]
    if missing:
        raise ConversionError(f"expected a shape for every tensor, found none for {', '.join(missing[:3])}")
    return {name: shape for name, shape in found.items() if shape is not None}


def _standard(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the node, or for ONNX Runtime's own integer product, which shape inference lacks, two that it knows."""
    if node.domain != CONTRIBUTED:
        yield node
        return
    integers = f"{node.output[0]}:integers"
    yield helper.make_node("MatMulInteger", node.input[:2], [integers])
    yield helper.make_node("Cast", [integers], node.output, to=TensorProto.FLOAT)


def _shape(tensor: onnx.TypeProto.Tensor) -> TensorShape | None:
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return TensorShape(tuple(dim.dim_value for dim in tensor.shape.dim), _itemsize(tensor.elem_type))


def _itemsize(kind: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
