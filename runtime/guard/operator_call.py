"""An operator of a graph with what is known of its inputs, from which a rule works out what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .onnx_file import Attribute, GraphFaultError, Operation


class Growing(int):
    """A size that may grow with the number of images; as a number it is the size for ``IMAGES`` of them."""


IMAGES = Growing(7)  # a prime, so that it is mistaken for no other size
Shape = tuple[int, ...]


class Known(NamedTuple):
    """What is known of a tensor: its shape, and its values where they are few and do not depend on the image.

    ``stored`` says that they lie in the file, and are no other tensor's sizes: nothing is looked up by those, as a
    table could hold a small size for the number of images here, and a huge one for another.
    """

    shape: Shape
    values: tuple[float, ...] | None = None
    stored: bool = True


class OperatorCall:
    """An operator with what is known of its inputs; beside its outputs it may need ``padded`` values and ``work``.

    ``work`` counts multiply-adds.
    """

    def __init__(self, operation: Operation, inputs: Sequence[Known | None]) -> None:
        self._attributes = operation.attributes
        self.inputs = inputs
        self.outputs = len(operation.outputs)
        self.scratch = 0
        self.work = 0

    def shape(self, place: int) -> Shape:
        """Return the shape of an input that must be there."""
        found = self.inputs[place]
        if found is None:
            raise GraphFaultError(f"no input {place}")
        return found.shape

    def has(self, place: int) -> bool:
        """Return whether there is such an input."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def sizes(self, place: int, *, stored: bool = True) -> tuple[int, ...]:
        """Return the integers of an input that says sizes or places; ``stored`` ones must lie in the file."""
        found = self.inputs[place]
        if found is None or found.values is None or not all(isinstance(value, int) for value in found.values):
            raise GraphFaultError(f"sizes (input {place}) that are computed from what an image shows")
        if stored and not found.stored:
            raise GraphFaultError(f"sizes (input {place}) that are computed from other sizes")
        return tuple(value for value in found.values if isinstance(value, int))

    def integer(self, name: bytes, default: int) -> int:
        """Return an integer attribute."""
        found = self._attributes.get(name, Attribute()).integer
        return default if found is None else found

    def integers(self, name: bytes, default: Sequence[int] = ()) -> Sequence[int]:
        """Return a list of integers that is an attribute."""
        return self._attributes[name].integers if name in self._attributes else default

    def text(self, name: bytes) -> bytes:
        """Return an attribute's text, empty where it is not there."""
        return self._attributes.get(name, Attribute()).text or b""

    def constant(self) -> Known:
        """Return the tensor that is the attribute ``value``."""
        tensor = self._attributes[b"value"].tensor
        if tensor is None:
            raise GraphFaultError("a constant that is no tensor")
        return Known(tensor.shape, tensor.values)

    def axes(self, rank: int) -> list[int]:
        """Return the axes that an attribute or the second input names, counted from the first; all where none does."""
        found = self.sizes(1) if self.has(1) else self.integers(b"axes")
        return [axis % rank for axis in found or range(rank)]


Rule = Callable[[OperatorCall], Known | list[Known]]


def like(size: int, *sources: int) -> int:
    """Return a size that grows with the number of images where any of those does that it was computed from."""
    return Growing(size) if any(isinstance(source, Growing) for source in sources) else size


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that shapes have together."""
    rank = max(map(len, shapes))
    columns = zip(*[(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes], strict=True)
    return tuple(map(together, columns))


def together(sizes: tuple[int, ...]) -> int:
    """Return the size that sizes of one axis have together, of which those of 1 are repeated."""
    wide = [size for size in sizes if size != 1]
    if any(size != wide[0] for size in wide):
        raise GraphFaultError(f"sizes that do not fit: {wide[:4]}")
    return like(wide[0], *wide) if wide else 1


def positive(sizes: Sequence[int]) -> Shape:
    """Return sizes as a shape; GraphFaultError where one is below 0."""
    if any(size < 0 for size in sizes):
        raise GraphFaultError(f"sizes below 0: {list(sizes)[:9]}")
    return tuple(sizes)
