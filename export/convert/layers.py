"""Knows what the nodes of our graphs are called and which of them INT8 can reach: convolutions and LSTMs' products."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

__all__ = [
    "CONTRIBUTED",
    "POINTWISE",
    "WEIGHT_AXIS",
    "arrays",
    "branch_of",
    "gives_float",
    "is_pointwise",
    "layer_of",
    "producers",
    "quantizable",
    "range_key",
    "takers",
]

# the axis of a weight along which each index has its own scale: output channels of (O, I, H, W), columns of (I, O)
WEIGHT_AXIS = {"Conv": 0, "MatMul": 1}

CONTRIBUTED = "com.microsoft"  # the domain of ONNX Runtime's own operators
POINTWISE = "/product"  # ends the name of a convolution that was written as a matrix product
STEP = re.compile(r"/step_\d+/")
PRODUCT = re.compile(r"(rnn/lstm_\d+)/(?:product|step_\d+/recurrent)")
STATES = re.compile(r"(rnn/lstm_\d+)/output")


def branch_of(name: str) -> str:
    """Tell a node's or tensor's branch from its name: ``cnn``, ``rnn`` or ``head``."""
    first = name.split("/", 1)[0]
    return first if first in ("cnn", "rnn") and "/" in name else "head"


def layer_of(node: onnx.NodeProto) -> str | None:
    """Name the layer that a quantizable node belongs to: the LSTM, or the node itself; None where INT8 can't take it.

    INT8 can take a convolution or a matrix product; our graphs have products with constants alone. A Gemm stays as it
    is: those of the head and the projection are small.
    """
    if node.op_type not in WEIGHT_AXIS:
        return None
    found = PRODUCT.fullmatch(node.name)
    return found[1] if found else str(node.name)


def quantizable(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """List the nodes that INT8 can take, by layer, in the order of the graph."""
    layers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if layer := layer_of(node):
            layers.setdefault(layer, []).append(node)
    return layers


def range_key(tensor: str) -> str:
    """Return the name of a tensor's range: the steps of an LSTM share one, and so does their concatenation."""
    return STATES.sub(r"\1/hidden", STEP.sub("/", tensor))


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
    if shape[1] == 1 or shape[2:] != (1, 1) or any(_integers(node, "pads")):
        return False
    behind = taken[node.output[0]]
    if len(behind) == 1 and behind[0].op_type == "Relu":
        behind = taken[behind[0].output[0]]
        return bool(behind) and all(other.op_type == "GlobalAveragePool" for other in behind)
    return bool(behind) and all(other.op_type in ("Add", "GlobalAveragePool") for other in behind)


def is_pointwise(node: onnx.NodeProto) -> bool:
    """Tell whether a node is a 1x1 convolution that was written as a matrix product of integers."""
    return node.domain == CONTRIBUTED and branch_of(node.name) == "cnn" and node.name.endswith(POINTWISE)


def _integers(node: onnx.NodeProto, name: str) -> list[int]:
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
