"""Weights that are not what they say, graphs that are none, and files that hold more than one says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from support.models.hostile_graphs import HUGE, WHOLE, Model, changed, node, nodes, weight


def odd_weights() -> Iterator[tuple[str, bytes]]:
    """Weights that are not what they say."""

    def said(dims: Sequence[int], data: bytes = bytes(16), kind: int = TensorProto.FLOAT, **fields: Any) -> bytes:
        tensor = TensorProto(dims=dims, data_type=kind, name="odd", **({"raw_data": data} if data else {}), **fields)
        return changed(lambda m: m.graph.initializer.append(tensor))

    for dims in (
        [5],
        [3],
        [2, 3],
        [0],
        [-4],
        [-2, -2],
        [2**62],
        [2**32, 2**32],
        [1] * 1000 + [4],
        [2**31],
        [2**63 - 1, 0],
    ):
        yield f"a weight of shape {dims[:2]} with 4 values", said(dims)
    yield "a weight of a terabyte without values", said([2**38], b"")
    for kind in (0, 4, 5, 8, 12, 13, 14, 15, 16, 17, 18, 21, 22, 23, 99, 2**31 - 1):
        yield f"a weight of type {kind}", said([4], kind=kind)
    yield "a weight of strings", said([1], b"", TensorProto.STRING, string_data=[b"x" * 10**6])
    yield "a weight with raw and other values", said([4], float_data=[1.0] * 4)
    yield "a weight with values of another type", said([4], b"", int64_data=[2**40] * 4)
    yield "a weight with fewer values", said([4], b"", float_data=[1.0])
    yield "a weight in segments", said([4], segment=TensorProto.Segment(begin=0, end=2**40))
    yield "values of a megabyte that are not raw", said([2**19], b"", float_data=[0.0] * 2**19)
    yield "a weight twice", changed(weight("w", [1]), weight("w", [2**40]))
    yield "a weight without a name", changed(weight("", [1]))
    yield "a weight by an input's name", changed(weight("image", [1]))
    yield "a weight by a node's name", changed(weight("logits", [1]))


def odd_structure() -> Iterator[tuple[str, bytes]]:
    """Graphs that are none, and files that hold more than one says."""
    yield "a cycle", changed(nodes(("Add", ["image", "b"], "a"), ("Relu", ["a"], "b")))
    yield "a node of itself", changed(node("Relu", "x"))
    yield "a tensor that is not there", changed(node("Relu", "nothing"))
    yield "a tensor made twice", changed(node("Relu", "image"), node("Neg", "image"))
    yield "an input overwritten", changed(node("Relu", "image", outputs=("sequence",)))
    yield "no input at all", changed(node("Relu"))
    yield "an output that nothing makes", changed(lambda m: setattr(m.graph.output[0], "name", "other"))
    yield "other inputs", changed(lambda m: setattr(m.graph.input[0], "name", "other"))
    yield "one input more", changed(lambda m: m.graph.input.append(helper.make_tensor_value_info("more", 1, [HUGE])))
    yield (
        "an attribute twice",
        changed(
            node("Softmax", "image", axis=1),
            lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", 2)),
        ),
    )
    yield "a name of a megabyte", changed(node("Relu", "image", outputs=("x" * 10**6,)))
    yield "a text of a megabyte", changed(lambda m: setattr(m, "doc_string", "x" * 10**6))
    yield "a producer of a megabyte", changed(lambda m: setattr(m, "producer_name", "x" * 10**6))
    yield "integers of a megabyte", changed(node("Conv", "image", "image", pads=[0] * 10**6))
    yield (
        "a type in an attribute",
        changed(
            lambda m: m.graph.node[0].attribute.append(
                onnx.AttributeProto(name="t", type=13, tp=helper.make_tensor_type_proto(1, [1]))
            )
        ),
    )
    yield (
        "a reference in an attribute",
        changed(
            lambda m: m.graph.node[0].attribute.append(onnx.AttributeProto(name="t", type=1, ref_attr_name="axis"))
        ),
    )
    yield "nothing", b""
    yield "zeros", bytes(4096)
    yield "text", b'ir_version: 8 graph { node { op_type: "Relu" } }'
    yield "JSON", b'{"irVersion": "8"}'
    yield "ONNX Runtime's own format", b"\x08\0\0\0ORTM" + bytes(200)
    yield "packed", b"\x1f\x8b\x08" + bytes(100)
    yield "an engine", b"ftrt" + bytes(4000)
    yield "no graph", bytes(Model(ir_version=8).SerializeToString())
    yield "two graphs", WHOLE + WHOLE
    yield "a graph and a part of one", WHOLE + changed(node("NonZero", "image"))[:10]
    yield "more behind it", WHOLE + b"\0"
    for number, name in ((9, "9"), (15, "15"), (26, "26"), (30, "30"), (2**29 - 1, "of the highest number")):
        yield f"a field {name}", WHOLE + varint(number << 3 | 2) + b"\x01x"
    for wire in (3, 4, 6, 7):
        yield f"a field of wire type {wire}", WHOLE + bytes([8 | wire])
    yield "a number without end", WHOLE + b"\x08" + b"\xff" * 11
    yield "a length without end", WHOLE + b"\x12" + b"\xff" * 9 + b"\x01"
    yield "a length beyond the file", WHOLE + b"\x12\xff\xff\xff\xff\x07x"
    yield "field 0", WHOLE + b"\x02\x01x"
    yield "four million fields", WHOLE + b"\x08\x08" * 2_000_001
    for part in (1, 2, 5, 100, len(WHOLE) // 2, len(WHOLE) - 1):
        yield f"cut off after {part} bytes", WHOLE[:part]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
