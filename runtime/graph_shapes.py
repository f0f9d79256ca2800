"""Works out how large a graph's tensors become, operator by operator, before an engine makes one of them.

Each rule follows the operator's definition (ONNX, "Operators"). A size that depends on what an image shows is refused,
as of an exported graph every size is known but for the number of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .onnx_file import MAX_VALUES, Attribute, GraphFaultError, Operation


class Growing(int):
    """A size that may grow with the number of images; as a number it is the size for ``IMAGES`` of them.

    Nothing is looked up by it: a table could hold a small size for this number of images, and a huge one for another.
    """


IMAGES = Growing(7)  # a prime, so that it is mistaken for no other size
Shape = tuple[int, ...]


class Known(NamedTuple):
    """What is known of a tensor: its shape, and its values where they are few and do not depend on the image."""

    shape: Shape
    values: tuple[float, ...] | None = None


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

    def sizes(self, place: int) -> tuple[int, ...]:
        """Return the values of an input that says sizes, which must be known integers."""
        found = self.inputs[place]
        if found is None or found.values is None or not all(isinstance(value, int) for value in found.values):
            raise GraphFaultError(f"sizes (input {place}) that are computed from what an image shows")
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
        found = self.sizes(1) if self.has(1) else self.integers(b"axes", range(rank))
        return [axis % rank for axis in found]


Rule = Callable[[OperatorCall], Known | list[Known]]


def like(size: int, *sources: int) -> int:
    """Return a size that grows with the number of images where any of those does that it was computed from."""
    return Growing(size) if any(isinstance(source, Growing) for source in sources) else size


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that shapes have together."""
    rank = max(map(len, shapes))
    columns = zip(*[(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes], strict=True)
    return tuple(map(_together, columns))


def _together(sizes: tuple[int, ...]) -> int:
    wide = [size for size in sizes if size != 1]
    if any(size != wide[0] for size in wide):
        raise GraphFaultError(f"sizes that do not fit: {wide[:4]}")
    return like(wide[0], *wide) if wide else 1


def _same(call: OperatorCall) -> Known:
    return Known(call.shape(0))


def _kept(call: OperatorCall) -> Known:
    return Known(call.shape(0), call.inputs[0].values if call.inputs[0] else None)


def _elementwise(call: OperatorCall) -> Known:
    return Known(broadcast(*(item.shape for item in call.inputs if item is not None)))


def _quantized(call: OperatorCall) -> list[Known]:
    return [Known(call.shape(0)), Known(()), Known(())]


def _windows(call: OperatorCall, sizes: Shape, kernel: Sequence[int]) -> Shape:
    """Return the sizes that windows over an image give; the padded image counts as memory that is needed."""
    rank = len(sizes)
    strides, dilations = call.integers(b"strides", [1] * rank), call.integers(b"dilations", [1] * rank)
    pads = call.integers(b"pads", [0] * (2 * rank))
    if len(kernel) != rank or len(strides) != rank or len(pads) != 2 * rank or len(dilations) != rank:
        raise GraphFaultError("windows of another rank than the image")
    if min(pads) < 0 or min((*strides, *dilations, *kernel)) < 1:
        raise GraphFaultError("windows, steps or pads of a negative size")
    mode, up = call.text(b"auto_pad"), call.integer(b"ceil_mode", 0)
    if mode.startswith(b"SAME"):
        return tuple(like(-(-size // stride), size) for size, stride in zip(sizes, strides, strict=True))
    padded = [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(sizes)]
    call.scratch = math.prod(padded)
    spans = [size - dilation * (width - 1) - 1 for size, dilation, width in zip(padded, dilations, kernel, strict=True)]
    found = [(span + (stride - 1) * up) // stride + 1 for span, stride in zip(spans, strides, strict=True)]
    return tuple(like(max(size, 0), *sizes) for size in found)


def _convolution(data: int, kernel: int) -> Rule:
    def rule(call: OperatorCall) -> Known:
        image, weights = call.shape(data), call.shape(kernel)
        shape = (image[0], weights[0], *_windows(call, image[2:], weights[2:]))
        call.scratch *= image[0] * image[1]
        call.work = math.prod(shape) * math.prod(weights[1:])
        return Known(shape)

    return rule


def _transposed(call: OperatorCall) -> Known:
    image, weights = call.shape(0), call.shape(1)
    rank = len(image) - 2
    strides, dilations = call.integers(b"strides", [1] * rank), call.integers(b"dilations", [1] * rank)
    more, pads = call.integers(b"output_padding", [0] * rank), call.integers(b"pads", [0] * (2 * rank))
    sizes = [
        strides[axis] * (image[2 + axis] - 1) + more[axis] + dilations[axis] * (weights[2 + axis] - 1) + 1
        for axis in range(rank)
    ]
    if not call.text(b"auto_pad").startswith(b"SAME"):
        sizes = [size - pads[axis] - pads[axis + rank] for axis, size in enumerate(sizes)]
    sizes = [like(size, *image) for size in call.integers(b"output_shape") or sizes]
    shape = (image[0], like(weights[1] * call.integer(b"group", 1), *weights), *_positive(sizes))
    call.work = math.prod(image) * math.prod(weights[1:])
    return Known(shape)


def _pooling(call: OperatorCall) -> Known:
    image = call.shape(0)
    kernel = call.integers(b"kernel_shape")
    shape = (*image[:2], *_windows(call, image[2:], kernel))
    call.scratch *= image[0] * image[1]
    call.work = math.prod(shape) * math.prod(kernel)
    return Known(shape)


def _pooled(call: OperatorCall) -> Known:
    shape = call.shape(0)
    return Known((*shape[:2], *[1] * (len(shape) - 2)))


def _product(first: int, second: int) -> Rule:
    def rule(call: OperatorCall) -> Known:
        one, other = call.shape(first), call.shape(second)
        rows, columns = one[-2:-1], other[-1:] if len(other) > 1 else ()
        if one[-1] != other[-2:][0]:
            raise GraphFaultError(f"a product of {one} and {other}")
        shape = (*broadcast(one[:-2], other[:-2]), *rows, *columns)
        call.work = math.prod(shape) * one[-1]
        return Known(shape)

    return rule


def _gemm(call: OperatorCall) -> Known:
    one, other = call.shape(0), call.shape(1)
    rows, inner = reversed(one) if call.integer(b"transA", 0) else one
    _, columns = reversed(other) if call.integer(b"transB", 0) else other
    call.work = rows * inner * columns
    return Known((rows, columns))


def _recurrent(units_axis: int) -> Rule:
    def rule(call: OperatorCall) -> list[Known]:
        steps, images = call.shape(0)[:2]
        weights, recurrent = call.shape(1), call.shape(2)
        directions, units = weights[0], recurrent[units_axis]
        if call.integer(b"layout", 0) or call.integer(b"hidden_size", units) != units:
            raise GraphFaultError("a recurrent layer of another layout or width than its weights")
        call.scratch = steps * images * directions * max(weights[1:])
        call.work = steps * images * (math.prod(weights) + math.prod(recurrent))
        state = Known((directions, images, units))
        return [Known((steps, directions, images, units)), state, state]

    return rule


def _reduced(call: OperatorCall) -> Known:
    shape = call.shape(0)
    axes = call.axes(len(shape))
    if call.integer(b"keepdims", 1):
        return Known(tuple(1 if axis in axes else size for axis, size in enumerate(shape)))
    return Known(tuple(size for axis, size in enumerate(shape) if axis not in axes))


def _reshaped(call: OperatorCall) -> Known:
    shape, asked = call.shape(0), call.sizes(1)
    sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(asked)]
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        place = sizes.index(-1)
        if known < 1 or math.prod(shape) % known:
            raise GraphFaultError(f"a reshape of {shape} to {asked}")
        sizes[place] = like(math.prod(shape) // known, *shape)
    if math.prod(sizes) != math.prod(shape) or any(size < 0 for size in sizes):
        raise GraphFaultError(f"a reshape of {shape} to {asked}")
    values = call.inputs[0].values if call.inputs[0] else None
    return Known(tuple(sizes), values)


def _flattened(call: OperatorCall) -> Known:
    shape = call.shape(0)
    axis = call.integer(b"axis", 1)
    axis += len(shape) if axis < 0 else 0
    first, second = shape[:axis], shape[axis:]
    return Known((like(math.prod(first), *first), like(math.prod(second), *second)))


def _transposition(call: OperatorCall) -> Known:
    shape = call.shape(0)
    order = call.integers(b"perm", range(len(shape))[::-1])
    if sorted(order) != list(range(len(shape))):
        raise GraphFaultError(f"a transposition of {shape} by {list(order)[:9]}")
    return Known(tuple(shape[axis] for axis in order))


def _squeezed(call: OperatorCall) -> Known:
    shape = call.shape(0)
    given = call.has(1) or call.integers(b"axes")
    axes = call.axes(len(shape)) if given else [axis for axis, size in enumerate(shape) if size == 1]
    if any(shape[axis] != 1 for axis in axes):
        raise GraphFaultError(f"a squeeze of {shape}")
    left = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    return Known(left, call.inputs[0].values if call.inputs[0] else None)


def _unsqueezed(call: OperatorCall) -> Known:
    shape = call.shape(0)
    count = len(call.sizes(1)) if call.has(1) else len(call.integers(b"axes"))
    axes = call.axes(len(shape) + count)
    left = iter(shape)
    sizes = tuple(1 if axis in axes else next(left) for axis in range(len(shape) + len(set(axes))))
    return Known(sizes, call.inputs[0].values if call.inputs[0] else None)


def _joined(call: OperatorCall) -> Known:
    parts = [item for item in call.inputs if item is not None]
    shape = parts[0].shape
    axis = call.integer(b"axis", 0) % len(shape)
    along = [part.shape[axis] for part in parts]
    if any(part.shape[:axis] + part.shape[axis + 1 :] != shape[:axis] + shape[axis + 1 :] for part in parts):
        raise GraphFaultError("a concatenation of shapes that do not fit")
    known = [part.values for part in parts if part.values is not None]
    few = len(known) == len(parts) and sum(map(len, known)) <= MAX_VALUES
    values = tuple(value for part in known for value in part) if few else None
    return Known((*shape[:axis], like(sum(along), *along), *shape[axis + 1 :]), values)


def _parted(call: OperatorCall) -> list[Known]:
    shape = call.shape(0)
    axis = call.integer(b"axis", 0) % len(shape)
    equal = [-(-shape[axis] // call.outputs)] * call.outputs
    sizes = call.sizes(1) if call.has(1) else call.integers(b"split", equal)
    if min(sizes) < 0 or (sizes is not equal and sum(sizes) != shape[axis]):
        raise GraphFaultError(f"a split of {shape[axis]} into {list(sizes)[:9]}")
    return [Known((*shape[:axis], like(size, shape[axis]), *shape[axis + 1 :])) for size in sizes]


def _sliced(call: OperatorCall) -> Known:
    source = call.inputs[0] or Known(())
    shape = list(source.shape)
    starts, ends = call.sizes(1), call.sizes(2)
    axes = [axis % len(shape) for axis in (call.sizes(3) if call.has(3) else range(len(starts)))]
    steps = call.sizes(4) if call.has(4) else [1] * len(starts)
    values = source.values
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut = slice(start, None if end < -shape[axis] and step < 0 else end, step)
        constant = len(shape) == 1 and not any(isinstance(place, Growing) for place in (start, end, step))
        values = values[cut] if values is not None and constant else None
        shape[axis] = like(len(range(*cut.indices(shape[axis]))), shape[axis])
    return Known(tuple(shape), values)


def _gathered(call: OperatorCall) -> Known:
    data, indices = call.inputs[0] or Known(()), call.inputs[1] or Known(())
    axis = call.integer(b"axis", 0) % len(data.shape)
    values = None
    if data.values is not None and indices.values is not None and len(data.shape) == 1:
        places = call.sizes(1)
        if not any(isinstance(place, Growing) for place in places):
            values = tuple(data.values[place] for place in places)
    return Known((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), values)


def _expanded(call: OperatorCall) -> Known:
    return Known(broadcast(call.shape(0), _positive(call.sizes(1))))


def _tiled(call: OperatorCall) -> Known:
    shape, repeats = call.shape(0), _positive(call.sizes(1))
    return Known(tuple(like(size * many, size, many) for size, many in zip(shape, repeats, strict=True)))


def _padded(call: OperatorCall) -> Known:
    shape = call.shape(0)
    pads = call.sizes(1) if call.has(1) else call.integers(b"pads")
    if len(pads) != 2 * len(shape) or call.has(3):
        raise GraphFaultError(f"pads of {len(pads)} numbers for {shape}")
    ends = zip(shape, pads[: len(shape)], pads[len(shape) :], strict=True)
    return Known(tuple(like(max(size + one + other, 0), size, one, other) for size, one, other in ends))


def _resized(call: OperatorCall) -> Known:
    shape = call.shape(0)
    if call.has(3):
        sizes = _positive(call.sizes(3))
        return Known(tuple(like(size, own) for size, own in zip(sizes, shape, strict=True)))
    scales = call.inputs[2].values if call.inputs[2] else None
    if scales is None or len(scales) != len(shape) or not all(0 < scale < 2**31 for scale in scales):
        raise GraphFaultError("a resize by a factor that is not in the graph")
    return Known(tuple(like(int(size * scale), size) for size, scale in zip(shape, scales, strict=True)))


def _blocks(*, apart: bool) -> Rule:
    def rule(call: OperatorCall) -> Known:
        images, channels, height, width = call.shape(0)
        side = call.integer(b"blocksize", 0)
        if side < 1 or (apart and channels % side**2):
            raise GraphFaultError(f"blocks of {side}")
        if apart:
            sizes = (channels // side**2, height * side, width * side)
        else:
            sizes = (channels * side**2, height // side, width // side)
        return Known((images, *(like(size, *call.shape(0)[1:]) for size in sizes)))

    return rule


def _shape_of(call: OperatorCall) -> Known:
    shape = call.shape(0)
    found = shape[slice(call.integer(b"start", 0), call.integer(b"end", len(shape)))]
    return Known((len(found),), found)


def _filled(call: OperatorCall) -> Known:
    return Known(_positive(call.sizes(0)))


def _counted(call: OperatorCall) -> Known:
    (start,), (limit,), (step,) = call.sizes(0), call.sizes(1), call.sizes(2)
    return Known((like(len(range(start, limit, step)), start, limit, step),))


def _positive(sizes: Sequence[int]) -> Shape:
    if any(size < 0 for size in sizes):
        raise GraphFaultError(f"sizes below 0: {list(sizes)[:9]}")
    return tuple(sizes)


def _einsum(call: OperatorCall) -> Known:
    terms, _, result = call.text(b"equation").replace(b" ", b"").partition(b"->")
    sizes: dict[int, int] = {}
    for place, term in enumerate(terms.split(b",")):
        for letter, size in zip(term, call.shape(place), strict=True):
            sizes[letter] = _together((sizes.get(letter, 1), size))
    call.work = math.prod(sizes.values())
    return Known(tuple(sizes[letter] for letter in result))


SAME = (
    "Abs BatchNormalization Ceil Celu Clip Dropout Elu Erf Exp EyeLike Floor Gelu GroupNormalization HardSigmoid "
    "HardSwish InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax LRN Mish Neg Not QuantizeLinear "
    "DequantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Softmax Softplus Softsign Sqrt Tanh ThresholdedRelu"
)
ELEMENTWISE = "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mul Or Pow PRelu Sub Sum Where"
REDUCED = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
# every operator that may be in a graph: those that exports write, with those of Keras's layers as tf2onnx writes them
RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME.split(), _same),
    **dict.fromkeys(ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(REDUCED.split(), _reduced),
    "AveragePool": _pooling,
    "Cast": _kept,
    "Concat": _joined,
    "Constant": OperatorCall.constant,
    "ConstantOfShape": _filled,
    "Conv": _convolution(0, 1),
    "ConvInteger": _convolution(0, 1),
    "ConvTranspose": _transposed,
    "DepthToSpace": _blocks(apart=True),
    "DynamicQuantizeLinear": _quantized,
    "Einsum": _einsum,
    "Expand": _expanded,
    "Flatten": _flattened,
    "Gather": _gathered,
    "Gemm": _gemm,
    "GlobalAveragePool": _pooled,
    "GlobalMaxPool": _pooled,
    "GRU": _recurrent(2),
    "Identity": _kept,
    "LSTM": _recurrent(2),
    "MatMul": _product(0, 1),
    "MatMulInteger": _product(0, 1),
    "MaxPool": _pooling,
    "Pad": _padded,
    "QLinearConv": _convolution(0, 3),
    "QLinearMatMul": _product(0, 3),
    "Range": _counted,
    "Reshape": _reshaped,
    "Resize": _resized,
    "RNN": _recurrent(2),
    "Shape": _shape_of,
    "Slice": _sliced,
    "SpaceToDepth": _blocks(apart=False),
    "Split": _parted,
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "Transpose": _transposition,
    "Unsqueeze": _unsqueezed,
}
CONTRIBUTED_RULES: dict[str, Rule] = {  # ONNX Runtime's own operators, of INT8 for the CPU
    "DynamicQuantizeLSTM": _recurrent(1),
    "DynamicQuantizeMatMul": _product(0, 1),
    "MatMulIntegerToFloat": _product(0, 1),
}
