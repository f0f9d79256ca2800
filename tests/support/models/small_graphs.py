"""Small ONNX graphs with what matters to TensorRT: convolutions, an LSTM, and Q/DQ around some of the products."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from hybrid_edge.runtime.spec import ModelSpec
from support.models.bundles import make_model

FILTERS = 8  # with 4 the builder takes five times as long
SPEC = ModelSpec(
    image_size=28, timesteps=28, backbone="digits", rnn_units=FILTERS, rnn_layers=1, class_labels=tuple("0123456789")
)

Array = npt.NDArray[Any]


def lstm_graph(*, quantized: bool = False, extra: Sequence[onnx.NodeProto] = (), seed: int = 3) -> bytes:
    """A convolution × an LSTM -> a head, in the shape of ``SPEC``; opset 17, IR 8.

    Args:
        quantized: with Q/DQ on both inputs of the convolution and of the head, not in the LSTM.
        extra: nodes to put in as well.
        seed: of the weights.
    """
    graph = _Graph(seed, quantized=quantized)
    graph.node("Transpose", ["image"], "channels_first", perm=[0, 3, 1, 2])
    graph.product("Conv", "channels_first", "convolved", (FILTERS, 3, 3, 3))
    graph.node("Relu", ["convolved"], "rectified")
    graph.node("GlobalAveragePool", ["rectified"], "pooled")
    graph.node("Flatten", ["pooled"], "cnn_features", axis=1)
    graph.node("Transpose", ["sequence"], "time_major", perm=[1, 0, 2])
    graph.weight("W", (1, 4 * FILTERS, 28))
    graph.weight("R", (1, 4 * FILTERS, FILTERS))
    graph.nodes.append(helper.make_node("LSTM", ["time_major", "W", "R"], ["", "last"], hidden_size=FILTERS))
    graph.constant("first_axis", np.array([0], np.int64))
    graph.node("Squeeze", ["last", "first_axis"], "rnn_features")
    graph.node("Mul", ["cnn_features", "rnn_features"], "features")
    graph.product("MatMul", "features", "logits", (FILTERS, 10))
    graph.node("Softmax", ["logits"], "probabilities", axis=1)
    graph.nodes += extra
    return graph.serialize()


class _Graph:
    def __init__(self, seed: int, *, quantized: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._quantized = quantized

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))

    def constant(self, name: str, value: Array) -> None:
        self._constants.append(numpy_helper.from_array(value, name))

    def weight(self, name: str, shape: tuple[int, ...]) -> Array:
        value = self._rng.normal(size=shape).astype(np.float32)
        self.constant(name, value)
        return value

    def product(self, operator: str, source: str, output: str, shape: tuple[int, ...]) -> None:
        """A convolution or matrix product; its quantized weights are stored transposed where that is free."""
        if not self._quantized:
            self.weight(f"{output}_weights", shape)
            self.node(operator, [source, f"{output}_weights"], output)
            return
        self.constant(f"{output}_scale", np.array(0.05, np.float32))
        self.constant(f"{output}_zero", np.array(0, np.int8))
        pair = [f"{output}_scale", f"{output}_zero"]
        self.node("QuantizeLinear", [source, *pair], f"{output}_quantized")
        self.node("DequantizeLinear", [f"{output}_quantized", *pair], f"{output}_input")
        transposed = operator == "MatMul"
        stored = self._rng.integers(-127, 128, size=shape[::-1] if transposed else shape).astype(np.int8)
        self.constant(f"{output}_weights", stored)
        self.constant(f"{output}_scales", np.full(stored.shape[0], 0.01, np.float32))
        self.constant(f"{output}_zeros", np.zeros(stored.shape[0], np.int8))
        scales = [f"{output}_scales", f"{output}_zeros"]
        self.node("DequantizeLinear", [f"{output}_weights", *scales], f"{output}_factor", axis=0)
        if transposed:
            self.node("Transpose", [f"{output}_factor"], f"{output}_turned", perm=[1, 0])
        self.node(operator, [f"{output}_input", f"{output}_turned" if transposed else f"{output}_factor"], output)

    def serialize(self) -> bytes:
        return bytes(make_model(SPEC, self.nodes, self._constants).SerializeToString())
