"""Write one matrix product as an ONNX model, byte by byte, as the runtime has no onnx package.

This file knows only what such a graph needs of the format (onnx.proto3, IR version 8). A model in the wheel for each
size and type would be megabytes, and NumPy's product is not the one that inference uses.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["product_graph"]

IR_VERSION = 8
OPSET = 17
VARINT, BYTES = 0, 2  # protobuf's wire types
FLOAT, UINT8, INT8, INT32 = 1, 2, 3, 6  # TensorProto.DataType
NUMBERS = {np.dtype(np.float32): FLOAT, np.dtype(np.uint8): UINT8, np.dtype(np.int8): INT8}


def product_graph(rows: int, weight: npt.NDArray[np.float32] | npt.NDArray[np.int8]) -> bytes:
    """Return a model with the input ``value`` and the output ``product``: value (rows, K) times a constant (K, N).

    Args:
        rows: the number of rows of the input, which is float32, or uint8 where the weight is int8.
        weight: the constant, (K, N). Integers are multiplied by ``MatMulInteger`` into int32, the input's zero at 128.
    """
    inner, columns = weight.shape
    integers = weight.dtype == np.int8
    operator, inputs = ("MatMulInteger", ["value", "weight", "zero"]) if integers else ("MatMul", ["value", "weight"])
    constants = [_tensor("weight", weight)] + ([_tensor("zero", np.array(128, np.uint8))] if integers else [])
    node = b"".join(_text(1, name) for name in inputs) + _text(2, "product") + _text(4, operator)
    graph = (
        _field(1, node)
        + _text(2, "product")
        + b"".join(_field(5, constant) for constant in constants)
        + _field(11, _value("value", UINT8 if integers else FLOAT, (rows, inner)))
        + _field(12, _value("product", INT32 if integers else FLOAT, (rows, columns)))
    )
    return _number(1, IR_VERSION) + _field(7, graph) + _field(8, _text(1, "") + _number(2, OPSET))


def _tensor(name: str, values: npt.NDArray[np.float32 | np.int8 | np.uint8]) -> bytes:
    dims = b"".join(_number(1, dim) for dim in values.shape)
    return dims + _number(2, NUMBERS[values.dtype]) + _text(8, name) + _field(9, values.tobytes())


def _value(name: str, number: int, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _number(1, dim)) for dim in shape)
    return _text(1, name) + _field(2, _field(1, _number(1, number) + _field(2, dims)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Write seven bits a byte, the lowest first; the eighth says that more follow."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))
