"""What TensorRT's parser made of an ONNX graph: inputs, outputs, layers, loops and quantized products.

This is the network before the builder fuses it: that Q/DQ stand on both inputs of a convolution says that TensorRT may
run it in INT8, not that it does. Only an engine inspector on a GPU can say that.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from hybrid_edge.runtime.engines.build import EngineBuild
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.spec import ModelSpec

CONVOLUTION, MATRIX_MULTIPLY, DEQUANTIZE = "CONVOLUTION", "MATRIX_MULTIPLY", "DEQUANTIZE"
TRIP_LIMIT = "TRIP_LIMIT"  # onnx-tensorrt turns an LSTM, a GRU or a Loop into a loop with one trip limit each
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
    """A parsed network: ``layers`` counts the layers of each type; ``products`` has those of loops' bodies too."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: dict[str, int]
    products: tuple[Product, ...]

    @property
    def loops(self) -> int:
        """How many LSTM operators and Loops were left as loops."""
        return self.layers.get(TRIP_LIMIT, 0)

    @property
    def convolutions(self) -> tuple[Product, ...]:
        return tuple(item for item in self.products if item.kind == CONVOLUTION)

    @property
    def matrix_products(self) -> tuple[Product, ...]:
        return tuple(item for item in self.products if item.kind == MATRIX_MULTIPLY)


def inspect_graph(onnx: bytes, spec: ModelSpec, library: Library) -> NetworkSummary:
    """Parse a graph as ``build_engine`` does, and summarize it without building an engine."""
    network = EngineBuild(library, onnx, spec).network
    layers = layers_of(network)
    makers = makers_of(network)
    products = [
        Product(layer.name, _kind(layer), _both_quantized(layer, makers))
        for layer in layers
        if _kind(layer) in (CONVOLUTION, MATRIX_MULTIPLY)
    ]
    return NetworkSummary(
        tuple(_describe(network.get_input(index)) for index in range(network.num_inputs)),
        tuple(_describe(network.get_output(index)) for index in range(network.num_outputs)),
        dict(Counter(_kind(layer) for layer in layers)),
        tuple(products),
    )


def layers_of(network: Any) -> list[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def makers_of(network: Any) -> dict[str, Any]:
    return {layer.get_output(index).name: layer for layer in layers_of(network) for index in range(layer.num_outputs)}


def _both_quantized(layer: Any, makers: dict[str, Any]) -> bool:
    """Whether both factors are dequantized; a convolution whose weights are no tensor has only one input."""
    factors = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
    return len(factors) == 2 and all(_dequantized(tensor, makers) for tensor in factors)


def _dequantized(tensor: Any, makers: dict[str, Any]) -> bool:
    layer = makers.get(tensor.name) if tensor is not None else None
    while layer is not None and _kind(layer) in MOVING:
        tensor = layer.get_input(0)
        layer = makers.get(tensor.name) if tensor is not None else None
    return layer is not None and _kind(layer) == DEQUANTIZE


def _kind(layer: Any) -> str:
    return str(layer.type.name)


def _describe(tensor: Any) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.dtype.name, tuple(tensor.shape))
