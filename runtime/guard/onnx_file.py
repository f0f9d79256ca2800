"""Reads an ONNX file's own bytes, strictly and without touching its weights, as a graph of plain records.

The format is protobuf (onnx.proto3 of IR 8 and 9, "ONNX Versioning" and "Protocol Buffers Encoding"). Only what an
exported graph consists of is read. Everything else is refused, whether the format knows it or not: data in other files,
functions, training, sparse tensors, and a field given twice of which parsers would take the last or merge both.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import NamedTuple

MAX_FIELDS = 2**20  # read in a second; 784 steps of two recurrent layers, written out, have some 400,000
MAX_TEXT = 2**14  # bytes of a name, an operator, a documentation; our names have some 60
MAX_RANK = 8
MAX_DEPTH = 2  # a graph, and the body of a Scan in it
MAX_DATA = 2**20  # bytes of values that are not stored raw; the exporter writes single numbers so

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
# ONNX's number of an element type -> bytes of an element; no other type is in a graph that was exported
ELEMENT_SIZES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}
# an attribute's type -> the field that has its value; an engine reads no other, and takes a default where it is another
ATTRIBUTE_FIELDS = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9}
# the field for values that are not raw -> the element types whose values lie there
TYPED_FIELDS = {4: (1,), 5: (2, 3, 6, 9, 10), 7: (7,), 10: (11,)}
# an element type -> how its values are read, and of how many at most: integers may be the sizes of as many steps as are
# written out, the others say scales or places
READ_VALUES = {1: ("f", 64), 6: ("i", 64), 7: ("q", 4096)}
CONTINUED = bytes(range(128, 256))  # the bytes of varints that are not their last

Source = bytes | mmap.mmap


class GraphFaultError(ValueError):
    """A graph is malformed, or holds what no exported graph does; who opened its file says which that is."""


class Weight(NamedTuple):
    """A tensor in the file: its shape, and its values where they are few, as they may say sizes."""

    name: bytes
    shape: tuple[int, ...]
    values: tuple[float, ...] | None


@dataclass
class Attribute:
    """An attribute's value, of which one is set: an integer, integers, a text, a tensor, a graph; no floats."""

    integer: int | None = None
    integers: list[int] = field(default_factory=list)
    text: bytes | None = None
    tensor: Weight | None = None
    body: GraphRecord | None = None


class Operation(NamedTuple):
    """A node: its operator with its domain, the names of its tensors (empty where one is left out), its attributes."""

    inputs: list[bytes]
    outputs: list[bytes]
    attributes: dict[bytes, Attribute]
    operator: bytes = b""
    domain: bytes = b""


@dataclass
class GraphRecord:
    """A graph: its weights, its operations in the file's order, and the names of its inputs and outputs."""

    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)


def read_graph(data: Source) -> GraphRecord:
    """Read the graph of an ONNX file from its bytes; weights are passed over, so that a mapped file is not loaded.

    Raises:
        GraphFaultError: the bytes are no such file, or hold what no exported graph does.
    """
    try:
        return _GraphReader(data).model()
    except (IndexError, struct.error):
        raise GraphFaultError("a number that is cut off") from None


class _GraphReader:
    """Reads one file, at most ``MAX_FIELDS`` fields of it: what takes long is refused."""

    def __init__(self, data: Source) -> None:
        self._data = data
        self._left = MAX_FIELDS

    def model(self) -> GraphRecord:
        graph = None
        for number, wire, start, end in self._fields(self._data, 0, len(self._data)):
            if (number, wire) == (7, LENGTH) and graph is None:
                graph = self._graph(start, end, 1)
            elif number not in (1, 2, 3, 4, 5, 6, 8) or end - start > MAX_TEXT:  # versions, names, operator sets
                raise _refused("the file", number)
        if graph is None:
            raise GraphFaultError("no graph")
        return graph

    def _graph(self, start: int, end: int, depth: int) -> GraphRecord:
        if depth > MAX_DEPTH:
            raise GraphFaultError(f"graphs in graphs, more than {MAX_DEPTH} deep")
        graph = GraphRecord()
        for number, wire, begin, stop in self._fields(self._data, start, end):
            if wire == LENGTH and number == 1:
                graph.operations.append(self._operation(begin, stop, depth))
            elif wire == LENGTH and number == 5:
                graph.weights.append(self._weight(begin, stop))
            elif wire == LENGTH and number in (11, 12):
                (graph.inputs if number == 11 else graph.outputs).append(self._value_name(begin, stop))
            elif wire != LENGTH or number not in (2, 10, 13) or stop - begin > MAX_TEXT:  # name, text, a shape
                raise _refused("the graph", number)
        return graph

    def _value_name(self, start: int, end: int) -> bytes:
        """Return the name of a ValueInfoProto; its type is compared with the spec where a session is made."""
        fields = self._fields(self._data, start, end)
        names = [_text(self._data, begin, stop) for number, _, begin, stop in fields if number == 1]
        if len(names) != 1:
            raise GraphFaultError(f"an input or output with {len(names)} names")
        return names[0]

    def _operation(self, start: int, end: int, depth: int) -> Operation:
        data, base = self._data, 0
        if end - start <= MAX_TEXT:  # a copy is read faster; a Scan holds all weights of its body
            data, base, start, end = data[start:end], start, 0, end - start
        named: dict[int, bytes] = {}
        operation = Operation([], [], {})
        for number, wire, begin, stop in self._fields(data, start, end):
            if wire != LENGTH:
                raise _refused("a node", number)
            if number == 5:
                name, value = self._attribute(begin + base, stop + base, depth)
                if name in operation.attributes:
                    raise GraphFaultError(f"an attribute {short(name)} twice")
                operation.attributes[name] = value
            elif number <= 2:
                (operation.inputs if number == 1 else operation.outputs).append(_text(data, begin, stop))
            elif number in (3, 4, 6, 7) and number not in named:  # name, operator, documentation, domain
                named[number] = _text(data, begin, stop)
            else:
                raise _refused("a node", number)
        return operation._replace(operator=named.get(4, b""), domain=named.get(7, b""))

    def _attribute(self, start: int, end: int, depth: int) -> tuple[bytes, Attribute]:
        value, seen, name, kind = Attribute(), set[int](), b"", 0
        for number, wire, begin, stop in self._fields(self._data, start, end):
            if number in seen and number != 8:
                raise GraphFaultError(f"field {number} of an attribute twice")
            seen.add(number)
            if (number, wire) == (1, LENGTH):
                name = _text(self._data, begin, stop)
            elif (number, wire) == (20, VARINT):
                kind = begin
            else:
                self._read_value(value, (number, wire), begin, stop, depth)
        if kind not in ATTRIBUTE_FIELDS or not seen <= {1, 13, 20, ATTRIBUTE_FIELDS[kind]}:
            raise GraphFaultError(f"an attribute {short(name)} of type {kind} with a value of another")
        return name, value

    def _read_value(self, value: Attribute, field: tuple[int, int], begin: int, stop: int, depth: int) -> None:
        """Take over one field of an AttributeProto, given its number and wire type."""
        if field == (3, VARINT):
            value.integer = _signed(begin)
        elif field == (4, LENGTH):
            value.text = _text(self._data, begin, stop)
        elif field == (5, LENGTH):
            value.tensor = self._weight(begin, stop)
        elif field == (6, LENGTH):
            value.body = self._graph(begin, stop, depth + 1)
        elif field[0] == 8:
            value.integers += _integers(self._data, field[1], begin, stop)
        elif field[0] not in (2, 7, 9, 13) or stop - begin > MAX_TEXT:  # a float, floats, texts, documentation
            raise _refused("an attribute", field[0])

    def _weight(self, start: int, end: int) -> Weight:
        """Read a TensorProto; its shape must be that of its bytes, which are themselves passed over."""
        data, name, kind, dims = self._data, b"", 0, list[int]()
        stored: tuple[int, int, int] | None = None
        for number, wire, begin, stop in self._fields(data, start, end):
            if number == 1:
                dims += _integers(data, wire, begin, stop)
            elif (number, wire) == (2, VARINT) and not kind:
                kind = begin
            elif (number, wire) == (8, LENGTH) and not name:
                name = _text(data, begin, stop)
            elif number == 13 or (number == 14 and begin != 0):
                raise GraphFaultError("weights in another file (external data)")
            elif wire == LENGTH and (number in TYPED_FIELDS or number == 9) and stored is None:
                stored = (number, begin, stop)
            elif number not in (12, 14) or stop - begin > MAX_TEXT:  # a text; that the data are here
                raise _refused("a tensor", number)
        number, begin, stop = stored or (9, 0, 0)
        size = ELEMENT_SIZES.get(kind)
        count = _count(data, number, begin, stop, size or 1)
        fits = number == 9 or kind in TYPED_FIELDS[number]
        if size is None or not fits or not _is_shape(dims) or count != math.prod(dims):
            raise GraphFaultError(
                f"a tensor {short(name)} of element type {kind} and shape {short(dims)} that holds {count:g} values"
            )
        return Weight(name, tuple(dims), _small_values(data, number, begin, stop, kind, int(count)))

    def _fields(self, data: Source, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield each field's number and wire type, and where its content begins and ends; of a number, it and 0."""
        while start < end:
            self._left -= 1
            if self._left < 0:
                raise GraphFaultError(f"more than {MAX_FIELDS} fields")
            key = data[start]
            start += 1
            if key >= 128:
                key, start = _varint(data, start - 1)
            wire = key & 7
            if wire == VARINT:
                value, start = _varint(data, start)
                yield key >> 3, wire, value, 0
                continue
            if wire == LENGTH:
                size = data[start]
                start += 1
                if size >= 128:
                    size, start = _varint(data, start - 1)
            elif wire in (FIXED64, FIXED32):
                size = 8 if wire == FIXED64 else 4
            else:
                raise GraphFaultError(f"wire type {wire}")
            if start + size > end:
                raise GraphFaultError("a part that is longer than what holds it")
            yield key >> 3, wire, start, start + size
            start += size
        if start > end:
            raise GraphFaultError("a number that is cut off")


def _is_shape(dims: list[int]) -> bool:
    return len(dims) <= MAX_RANK and all(0 <= dim < 2**31 for dim in dims)


def _count(data: Source, number: int, begin: int, stop: int, size: int) -> float:
    """Return how many values a tensor's bytes hold: raw ones, floats, or integers each as long as it needs."""
    if number == 9:
        return (stop - begin) / size
    if stop - begin > MAX_DATA:
        raise GraphFaultError(f"values of {stop - begin} bytes that are not stored raw")
    if number in (4, 10):
        return (stop - begin) / (4 if number == 4 else 8)
    return len(data[begin:stop].translate(None, CONTINUED))


def _small_values(data: Source, number: int, begin: int, stop: int, kind: int, count: int) -> tuple[float, ...] | None:
    code, most = READ_VALUES.get(kind, ("", -1))
    if count > most:
        return None
    if number in (4, 9):
        return struct.unpack(f"<{count}{code}", data[begin:stop])
    return tuple(_integers(data, LENGTH, begin, stop))


def _text(data: Source, start: int, end: int) -> bytes:
    if end - start > MAX_TEXT:
        raise GraphFaultError(f"a name of {end - start} bytes")
    return data[start:end]


def _integers(data: Source, wire: int, begin: int, stop: int) -> list[int]:
    """Return the integers of a repeated field: one alone, or packed."""
    if wire == VARINT:
        return [_signed(begin)]
    if wire != LENGTH or stop - begin > MAX_TEXT:
        raise GraphFaultError(f"integers of {stop - begin} bytes")
    found = []
    while begin < stop:
        value, begin = _varint(data, begin)
        found.append(_signed(value))
    return found


def _varint(data: Source, start: int) -> tuple[int, int]:
    """Return an unsigned integer of at most 64 bits, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), start
    raise GraphFaultError("a number of more than 64 bits")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _refused(where: str, number: int) -> GraphFaultError:
    return GraphFaultError(f"field {number} of {where}, which is unknown there, or given twice, or too long")
