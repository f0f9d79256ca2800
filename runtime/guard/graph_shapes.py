"""Works out how large a graph's tensors become, operator by operator, before an engine makes one of them.

Each rule follows the operator's definition (ONNX, "Operators"). A size that depends on what an image shows is refused,
as of an exported graph every size is known but for the number of images.
"""

from __future__ import annotations

import math

from .layer_shapes import (
    convolution,
    einsum,
    gemm,
    global_pooling,
    pooling,
    product,
    product_in_blocks,
    recurrent,
    transposed_convolution,
)
from .onnx_file import MAX_RANK, GraphFaultError
from .operator_call import Known, OperatorCall, Rule, Shape, broadcast, like, positive


def _same(call: OperatorCall) -> Known:
    return Known(call.shape(0))


def _kept(call: OperatorCall) -> Known:
    return _moved(call, call.shape(0))


def _moved(call: OperatorCall, shape: Shape) -> Known:
    """Return the first input's values in another shape."""
    source = call.inputs[0] or Known(())
    return Known(shape, source.values, source.stored)


def _elementwise(call: OperatorCall) -> Known:
    return Known(broadcast(*(item.shape for item in call.inputs if item is not None)))


def _quantized(call: OperatorCall) -> list[Known]:
    return [Known(call.shape(0)), Known(()), Known(())]


def _reduced(call: OperatorCall) -> Known:
    shape = call.shape(0)
    axes = call.axes(len(shape))
    if call.integer(b"noop_with_empty_axes", 0):
        raise GraphFaultError("a reduction over no axis")
    if call.integer(b"keepdims", 1):
        return Known(tuple(1 if axis in axes else size for axis, size in enumerate(shape)))
    return Known(tuple(size for axis, size in enumerate(shape) if axis not in axes))


def _reshaped(call: OperatorCall) -> Known:
    shape, asked = call.shape(0), call.sizes(1, stored=False)
    sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(asked)]
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        place = sizes.index(-1)
        if known < 1 or math.prod(shape) % known:
            raise GraphFaultError(f"a reshape of {shape} to {asked}")
        sizes[place] = like(math.prod(shape) // known, *shape)
    if math.prod(sizes) != math.prod(shape) or any(size < 0 for size in sizes):
        raise GraphFaultError(f"a reshape of {shape} to {asked}")
    return _moved(call, tuple(sizes))


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
    return _moved(call, left)


def _unsqueezed(call: OperatorCall) -> Known:
    shape = call.shape(0)
    count = len(call.sizes(1)) if call.has(1) else len(call.integers(b"axes"))
    axes = call.axes(len(shape) + count)
    if len(set(axes)) < count:
        raise GraphFaultError(f"an axis that is added to {shape} twice")
    left = iter(shape)
    sizes = tuple(1 if axis in axes else next(left) for axis in range(len(shape) + count))
    return _moved(call, sizes)


def _joined(call: OperatorCall) -> Known:
    parts = [item for item in call.inputs if item is not None]
    shape = parts[0].shape
    axis = call.integer(b"axis", 0) % len(shape)
    along = [part.shape[axis] for part in parts]
    if any(part.shape[:axis] + part.shape[axis + 1 :] != shape[:axis] + shape[axis + 1 :] for part in parts):
        raise GraphFaultError("a concatenation of shapes that do not fit")
    known = [part.values for part in parts if part.values is not None]
    few = len(known) == len(parts) and sum(map(len, known)) <= MAX_RANK
    values = tuple(value for part in known for value in part) if few else None
    joined = (*shape[:axis], like(sum(along), *along), *shape[axis + 1 :])
    return Known(joined, values, all(part.stored for part in parts))


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
        values = values[cut] if values is not None and len(shape) == 1 else None
        shape[axis] = like(len(range(*cut.indices(shape[axis]))), shape[axis])
    return Known(tuple(shape), values, source.stored)


def _gathered(call: OperatorCall) -> Known:
    data, indices = call.inputs[0] or Known(()), call.inputs[1] or Known(())
    axis = call.integer(b"axis", 0) % len(data.shape)
    values = None
    if data.values is not None and indices.values is not None and len(data.shape) == 1:
        values = tuple(data.values[place] for place in call.sizes(1))
    return Known((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), values, data.stored)


def _expanded(call: OperatorCall) -> Known:
    return Known(broadcast(call.shape(0), positive(call.sizes(1, stored=False))))


def _tiled(call: OperatorCall) -> Known:
    shape, repeats = call.shape(0), positive(call.sizes(1))
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
    if call.integers(b"axes") or call.text(b"keep_aspect_ratio_policy") not in (b"", b"stretch"):
        raise GraphFaultError("a resize by another rule than its sizes")
    if call.has(3):
        sizes = positive(call.sizes(3, stored=False))
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
    return Known((len(found),), found, stored=False)


def _filled(call: OperatorCall) -> Known:
    return Known(positive(call.sizes(0, stored=False)))


def _counted(call: OperatorCall) -> Known:
    (start,), (limit,), (step,) = call.sizes(0), call.sizes(1), call.sizes(2)
    return Known((like(len(range(start, limit, step)), start, limit, step),))


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
    "AveragePool": pooling,
    "Cast": _kept,
    "Concat": _joined,
    "Constant": OperatorCall.constant,
    "ConstantOfShape": _filled,
    "Conv": convolution(0, 1),
    "ConvInteger": convolution(0, 1),
    "ConvTranspose": transposed_convolution,
    "DepthToSpace": _blocks(apart=True),
    "DynamicQuantizeLinear": _quantized,
    "Einsum": einsum,
    "Expand": _expanded,
    "Flatten": _flattened,
    "Gather": _gathered,
    "Gemm": gemm,
    "GlobalAveragePool": global_pooling,
    "GlobalMaxPool": global_pooling,
    "GRU": recurrent(2),
    "Identity": _kept,
    "LSTM": recurrent(2),
    "MatMul": product(0, 1),
    "MatMulInteger": product(0, 1),
    "MaxPool": pooling,
    "Pad": _padded,
    "QLinearConv": convolution(0, 3),
    "QLinearMatMul": product(0, 3),
    "Range": _counted,
    "Reshape": _reshaped,
    "Resize": _resized,
    "RNN": recurrent(2),
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
    "DynamicQuantizeLSTM": recurrent(1),
    "DynamicQuantizeMatMul": product(0, 1),
    "MatMulIntegerToFloat": product(0, 1),
    "MatMulNBits": product_in_blocks,
}
