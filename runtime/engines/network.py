"""Summarizes what TensorRT made of an ONNX graph: inputs, outputs, layers, loops and quantized products.

This is the network before the builder fuses it: that Q/DQ stand on both inputs of a convolution says that TensorRT may
run it in INT8, not that it does. Only an engine inspector on a GPU can say that.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

__all__ = ["NetworkSummary", "Product", "TensorInfo", "summarize"]

CONVOLUTION, MATRIX_MULTIPLY, DEQUANTIZE = "CONVOLUTION", "MATRIX_MULTIPLY", "DEQUANTIZE"
# onnx-tensorrt turns an LSTM, a GRU or a Loop into a loop with one trip limit each
TRIP_LIMIT = "TRIP_LIMIT"
# layers that move values and compute none, so that a DequantizeLayer before them still gives a quantized input
MOVING = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY", "SLICE", "CONCATENATION")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: its name, its dtype (``FLOAT``, ``HALF``, …) and its shape, -1 where it is free."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product, which is ``quantized`` where both inputs come from a DequantizeLayer."""

    name: str
    kind: str
    quantized: bool


@dataclass(frozen=True)
class NetworkSummary:
    """A parsed network, in the figures that the report and the tests use.

    Attributes:
        inputs: the inputs in the graph's order.
        outputs: the outputs in the graph's order.
        layers: how many layers there are of each TensorRT layer type, by its name.
        loops: how many LSTM operators and Loops were left as loops.
        products: every convolution and matrix product, loops' bodies included.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: dict[str, int]
    loops: int
    products: tuple[Product, ...]

    @property
    def convolutions(self) -> tuple[Product, ...]:
        """The convolutions among the products."""
        return tuple(item for item in self.products if item.kind == CONVOLUTION)

    @property
    def matrix_products(self) -> tuple[Product, ...]:
        """The matrix products among the products."""
        return tuple(item for item in self.products if item.kind == MATRIX_MULTIPLY)

    @property
    def is_quantized(self) -> bool:
        """Whether anything is dequantized in the network."""
        return DEQUANTIZE in self.layers


def summarize(network: Any) -> NetworkSummary:
    """Summarize an INetworkDefinition of TensorRT."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {tensor.name: layer for layer in layers for tensor in _outputs(layer)}
    kinds = Counter(_kind(layer) for layer in layers)
    products = [
        Product(layer.name, _kind(layer), _both_quantized(layer, makers))
        for layer in layers
        if _kind(layer) in (CONVOLUTION, MATRIX_MULTIPLY)
    ]
    return NetworkSummary(
        tuple(_describe(network.get_input(index)) for index in range(network.num_inputs)),
        tuple(_describe(network.get_output(index)) for index in range(network.num_outputs)),
        dict(sorted(kinds.items())),
        kinds[TRIP_LIMIT],
        tuple(products),
    )


def _both_quantized(layer: Any, makers: dict[str, Any]) -> bool:
    """Return whether both factors are dequantized; a convolution whose weights are no tensor has only one input."""
    factors = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
    return len(factors) == 2 and all(_dequantized(tensor, makers) for tensor in factors)


def _dequantized(tensor: Any, makers: dict[str, Any]) -> bool:
    layer = makers.get(tensor.name) if tensor is not None else None
    while layer is not None and _kind(layer) in MOVING:
        tensor = layer.get_input(0)
        layer = makers.get(tensor.name) if tensor is not None else None
    return layer is not None and _kind(layer) == DEQUANTIZE


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _kind(layer: Any) -> str:
    return str(layer.type.name)


def _describe(tensor: Any) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.dtype.name, tuple(tensor.shape))
