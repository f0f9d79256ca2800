"""Reads our graphs: what nodes are called, which of them INT8 can reach, and the shapes and types of tensors.

INT8 reaches convolutions and recurrent layers' products. Weights are left out or read one by one: a copy of all is
400 MB.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...runtime.errors import ConversionError

# the axis of a weight along which each index has its own scale: output channels of (O, I, H, W), columns of (I, O)
WEIGHT_AXIS = {"Conv": 0, "MatMul": 1}
WEIGHT_RANK = {"Conv": 4, "MatMul": 2}  # of the weights that INT8 takes: (O, I, H, W) and (I, O)

CONTRIBUTED = "com.microsoft"  # the domain of ONNX Runtime's own operators
IN_BLOCKS = "MatMulNBits"  # the one of them whose weights have a scale for each block of inputs
POINTWISE = "/product"  # ends the name of a convolution that was written as a matrix product
AFFINE = re.compile(r"/affine(_\d+)?$")  # ends the name of a depthwise 1x1 convolution that is a normalization
RECURRENT_OPERATORS = ("LSTM", "GRU")
# a recurrent layer's tensors are named rnn/LAYER/…, those of a Bidirectional's directions rnn/LAYER-forward/…
FORWARD, BACKWARD = "-forward", "-backward"
STEP_PART = re.compile(r"^(rnn/[^/]+)/step_\d+/")
RECURRENT_PRODUCT = re.compile(r"(rnn/[^/]+)/(?:product|step_\d+/recurrent(?:_candidate)?)")
RECURRENT_OUTPUT = re.compile(r"^(rnn/(?!batch_norm/)[^/]+)/output$")
KERNEL_CHANNELS = 4  # that a CPU's integer kernel takes at a time: vpdpbusd adds up four products of bytes
MAX_CONSTANT_VALUES = 1024  # values: shapes, axes and other constants that shape inference looks into


def branch_of(name: str) -> str:
    """Tell a node's or tensor's branch from its name: ``cnn``, ``rnn`` or ``head``."""
    first = name.split("/", 1)[0]
    return first if first in ("cnn", "rnn") and "/" in name else "head"


Shapes = Mapping[str, tuple[int, ...]]


def constant_shapes(model: onnx.ModelProto) -> Shapes:
    """Return the shape of every initializer, by its name."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def layer_of(node: onnx.NodeProto, constants: Shapes) -> str | None:
    """Name the layer that a quantizable node belongs to: a recurrent one, or the node itself; None for any other node.

    INT8 can take a convolution of images or a matrix product whose weight is one of the constants, by
    ``constant_shapes``; the product of two activations, as in attention, stays as it is. So does a Gemm: those of the
    head and the projection are small.
    """
    if node.op_type not in WEIGHT_AXIS or len(constants.get(node.input[1], ())) != WEIGHT_RANK[node.op_type]:
        return None
    found = RECURRENT_PRODUCT.fullmatch(node.name)
    return found[1] if found else str(node.name)


def quantizable(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """List the nodes that INT8 can take, by layer, in the order of the graph."""
    layers: dict[str, list[onnx.NodeProto]] = {}
    constants = constant_shapes(model)
    for node in model.graph.node:
        if layer := layer_of(node, constants):
            layers.setdefault(layer, []).append(node)
    return layers


def image_layers(source: onnx.ModelProto) -> set[str]:
    """Return the convolutions that stay in float on a CPU, since an image has fewer channels than its kernel takes.

    The kernel copies patches there and saves nothing (full size, one thread: the CNN takes 27.1 ms with the first
    convolution in float and 28.7 ms without), and the first convolution's rounded weights alone make up a tenth of
    INT8's error.
    """
    constants = constant_shapes(source)
    return {
        node.name
        for node in source.graph.node
        if node.op_type == "Conv" and groups_of(node) == 1 and constants[node.input[1]][1] < KERNEL_CHANNELS
    }


def range_key(tensor: str) -> str:
    """Return the name of a tensor's range: a recurrent layer's steps share one, and so does their concatenation."""
    return RECURRENT_OUTPUT.sub(r"\1/hidden", STEP_PART.sub(r"\1/", tensor))


def producers(nodes: Iterable[onnx.NodeProto]) -> Mapping[str, onnx.NodeProto]:
    """Map each tensor's name to the node that makes it."""
    return {output: node for node in nodes for output in node.output if output}


def takers(nodes: Iterable[onnx.NodeProto]) -> Mapping[str, list[onnx.NodeProto]]:
    """Map each tensor's name to the nodes that take it; an empty list where none does."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            found[name].append(node)
    return found


def gives_float(
    node: onnx.NodeProto, taken: Mapping[str, list[onnx.NodeProto]], constants: Mapping[str, npt.NDArray[np.generic]]
) -> bool:
    """Tell whether a convolution is a matrix product whose result goes straight into an addition or global average.

    On the CPU such a convolution gives floats and not integers: each quantized result that is added leaves its error in
    the residual stream for good.
    """
    shape = constants[node.input[1]].shape
    if shape[1] == 1 or shape[2:] != (1, 1) or any(integers_of(node, "pads")):
        return False
    behind = taken[node.output[0]]
    if len(behind) == 1 and behind[0].op_type == "Relu":
        behind = taken[behind[0].output[0]]
        return bool(behind) and all(other.op_type == "GlobalAveragePool" for other in behind)
    return bool(behind) and all(other.op_type in ("Add", "GlobalAveragePool") for other in behind)


def is_affine(node: onnx.NodeProto) -> bool:
    """Tell whether a convolution gives each channel a factor and an offset and no more, as ``simplify`` writes it."""
    return node.op_type == "Conv" and bool(AFFINE.search(node.name))


def groups_of(node: onnx.NodeProto) -> int:
    """Return a convolution's number of groups; a depthwise one has as many as channels."""
    return next((int(item.i) for item in node.attribute if item.name == "group"), 1)


def is_pointwise(node: onnx.NodeProto) -> bool:
    """Tell whether a node is a 1x1 convolution that was written as a matrix product of integers."""
    return node.domain == CONTRIBUTED and branch_of(node.name) == "cnn" and node.name.endswith(POINTWISE)


def integers_of(node: onnx.NodeProto, name: str) -> list[int]:
    """Return a node's attribute that is a list of integers, such as ``pads``; an empty list where it has none."""
    return next((list(item.ints) for item in node.attribute if item.name == name), [])


def arrays(model: onnx.ModelProto) -> Mapping[str, npt.NDArray[np.generic]]:
    """Map names to initializers as arrays, each read when asked for: all at once would be a copy of the weights."""
    return _Arrays({tensor.name: tensor for tensor in model.graph.initializer})


class _Arrays(Mapping[str, npt.NDArray[np.generic]]):
    def __init__(self, tensors: dict[str, onnx.TensorProto]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> npt.NDArray[np.generic]:
        return np.asarray(numpy_helper.to_array(self._tensors[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with inputs in place of its weights: onnx's tools would copy 400 MB of weights three times."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > MAX_CONSTANT_VALUES:
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


def channel_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Return the length of every tensor's second axis, the channels of images, by name, where that is known."""
    return {name: dims[1] for name, dims in _inferred_dims(model).items() if len(dims) > 1 and dims[1]}


def tensor_ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of axes of every tensor, by name, where that is known."""
    return {name: len(dims) for name, dims in _inferred_dims(model).items()}


def _inferred_dims(model: onnx.ModelProto) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    tensors = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return {
        name: [dim.dim_value for dim in tensor.shape.dim]
        for name, tensor in tensors.items()
        if tensor.HasField("shape")
    }


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
    """Infer the shapes of all tensors, by name, with a batch of one; raise ConversionError where that misses one."""
    bare = skeleton(model)
    for value in bare.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    del bare.graph.output[:]  # they declare the symbolic batch
    nodes = [part for node in bare.graph.node for part in _standard(node, bare.graph.initializer)]
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


def _standard(node: onnx.NodeProto, constants: MutableSequence[onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    """Yield the node, or for ONNX Runtime's own product, which shape inference lacks, what it knows of that shape.

    The weight of one in blocks is added to the ``constants``, without its values.
    """
    if node.domain != CONTRIBUTED:
        yield node
        return
    if node.op_type == IN_BLOCKS:
        sizes = {item.name: item.i for item in node.attribute}
        weight = f"{node.output[0]}:weight"
        constants.append(onnx.TensorProto(name=weight, data_type=TensorProto.FLOAT, dims=[sizes["K"], sizes["N"]]))
        yield helper.make_node("MatMul", [node.input[0], weight], node.output)
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
