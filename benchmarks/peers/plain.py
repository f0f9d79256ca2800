"""The graph that plain tf2onnx makes of the whole Keras model, and what it computes, operator by operator.

At full size plain tf2onnx takes over 23 GB; so ONNX Runtime and OpenVINO get the CNN branch by tf2onnx joined to
``LSTM`` operators (the bundle's FP32 graph) as the peers' plain graph. That both are the same is shown at a reduced
size: ``fingerprint`` is equal for graphs that do the same arithmetic with the same weights, however they move the
tensors' axes about.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hybrid_edge.runtime.spec import ModelSpec

__all__ = ["Fingerprint", "fingerprint", "plain_graph"]

OPSET = 17
MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Cast", "Identity", "Expand")  # compute nothing
# defaults that one writer spells out and the other leaves away; axes follow from the layout
SILENT = ("activations", "direction", "axis", "auto_pad", "transA", "transB")


@dataclass(frozen=True)
class Fingerprint:
    """What a graph computes.

    Attributes:
        root: digest of the last operator, of its attributes and weights, and so on down to the inputs.
        operators: how often each arithmetic operator occurs; a product with a bias is ``Dense``, shapes don't count.
    """

    root: str
    operators: Counter[str]


def plain_graph(model: Any, spec: ModelSpec) -> onnx.ModelProto:
    """The whole Keras model through tf2onnx, as its documentation shows: one input ``image``, a dynamic batch."""
    import tensorflow as tf
    import tf2onnx

    function = tf.function(lambda image: model(image, training=False))
    signature = [tf.TensorSpec((None, *spec.image_shape), tf.float32, name="image")]
    graph, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    return graph


def fingerprint(model: onnx.ModelProto) -> Fingerprint:
    """Follow the graph from its last output to its inputs."""
    walk = _Walk(model.graph)
    root = walk.value(model.graph.output[-1].name)
    return Fingerprint(root, walk.operators)


class _Walk:
    """Digests of a graph's tensors, each computed once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.operators: Counter[str] = Counter()
        self._weights = {item.name: item for item in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._known: dict[str, str] = {item.name: item.name for item in graph.input}

    def value(self, name: str) -> str:
        """What a tensor is: an input's name, a weight's digest, or an operator's."""
        pending = [name]
        while pending:  # by a stack: graphs are deeper than Python recurses
            node = self._makers.get(pending[-1])
            missing = [] if node is None else [item for item in _operands(node) if not self._is_known(item)]
            if pending[-1] in self._known or not missing:
                current = pending.pop()
                if not self._is_known(current) and node is not None:
                    self._known[current] = self._operator(node)
            else:
                pending += missing
        return self._of(name)

    def _is_known(self, name: str) -> bool:
        return name in self._known or name in self._weights

    def _of(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = _digest(numpy_helper.to_array(self._weights[name]))
        return self._known[name]

    def _operator(self, node: onnx.NodeProto) -> str:
        first = self._of(node.input[0])
        if node.op_type in MOVES:
            return first
        if node.op_type == "GlobalAveragePool" and first == "image":
            return "sequence"  # the mean over the channels, which the bundle's graph gets as an input
        if node.op_type == "Add" and (dense := self._dense_below(node)):
            return dense
        if node.op_type in ("MatMul", "Gemm"):
            return self._dense(node)
        operands = [self._of(item) for item in _operands(node)]
        if node.op_type in ("Add", "Mul"):
            operands.sort()
        return self._count(node.op_type, _attributes(node), [item for item in operands if item != "zeros"])

    def _dense(self, node: onnx.NodeProto) -> str:
        kernel = numpy_helper.to_array(self._weights[node.input[1]])
        if any(item.name == "transB" and item.i for item in node.attribute):
            kernel = kernel.T
        bias = self._of(node.input[2]) if len(node.input) > 2 else "zeros"
        return self._count("Dense", "", [self._of(node.input[0]), _digest(kernel), bias])

    def _dense_below(self, node: onnx.NodeProto) -> str:
        """An Add of a constant to a product, as one Dense; empty if it is another Add."""
        product, bias = (next((i for i in node.input if (i in self._weights) is own), "") for own in (False, True))
        maker = self._makers.get(product)
        if not bias or maker is None or maker.op_type != "MatMul":
            return ""
        self.operators["Dense"] -= 1  # counted when its product was
        kernel = numpy_helper.to_array(self._weights[maker.input[1]])
        return self._count("Dense", "", [self._of(maker.input[0]), _digest(kernel), self._of(bias)])

    def _count(self, kind: str, attributes: str, operands: list[str]) -> str:
        self.operators[kind] += 1
        return hashlib.sha256("|".join((kind, attributes, *operands)).encode()).hexdigest()


def _operands(node: onnx.NodeProto) -> list[str]:
    """The tensors that an operator computes with; of one that only moves a tensor, that tensor."""
    return [node.input[0]] if node.op_type in MOVES else [name for name in node.input if name]


def _attributes(node: onnx.NodeProto) -> str:
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute if item.name not in SILENT}
    return str(sorted(values.items()))


def _digest(values: npt.NDArray[Any]) -> str:
    if values.dtype == np.float32 and not values.any():
        return "zeros"
    content = np.ascontiguousarray(values)
    return hashlib.sha256(f"{content.dtype}{content.shape}".encode() + content.tobytes()).hexdigest()
