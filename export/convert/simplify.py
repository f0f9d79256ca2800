"""Rewrites what tf2onnx makes of a CNN into the operators that engines have kernels for, to the same function.

    Conv ─► Mul ─► Add, of channels              ──►  Conv                     BatchNorm behind a depthwise one
    Mul ─► Add, of channels                      ──►  Conv, 1x1, depthwise     BatchNorm before a convolution
    Pad ─► Conv                                  ──►  Conv with pads
    Pad ─► MaxPool, of what may be negative      ──►  Pad of 6e-8 ─► MaxPool, or ONNX Runtime drops the zeros
    Add 3 ─► Clip to 6 ─► Mul 1/6                ──►  HardSigmoid
    x/2 · (1 - erf(-x/√2))                       ──►  x · (1 + erf(x/√2)) · 1/2, which ONNX Runtime fuses
    mean, variance, their difference, ...        ──►  LayerNormalization, between transpositions
    Squeeze ─► Reshape to what was there before  ──►  nothing
    Concat of a Concat                           ──►  Concat of all parts

A normalization of channels is a depthwise convolution of 1x1, since everything that is done to convolutions is then
done to it too: its channels are evened out. It is never quantized: see ``artifact_graph``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from .graph_editor import Float64, GraphEditor
from .graph_reading import integers_of

Rewrite = Callable[["GraphEditor", onnx.NodeProto], bool]

IMAGE_RANK = 4  # (N, C, H, W)
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
MEANS = ("ReduceMean", "GlobalAveragePool")
RESHAPING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid")
TOLERANCE = 1e-5  # relative, of a constant that is rounded to float32
NEARLY_ZERO = 2.0**-24  # the smallest number that FP16 has too


def simplify(model: onnx.ModelProto) -> None:
    """Rewrite tf2onnx's graph of a CNN in place; its input, output and function stay the same."""
    editor = GraphEditor(model)
    for rewrite in REWRITES:
        editor.apply(rewrite)
    editor.write()


def _skip_reshapes(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Leave out a change of shape whose result has the shape of what stood before it, or before others like it."""
    shape = editor.shape(node.output[0])
    if node.op_type not in RESHAPING or not shape or not editor.takers(node.output[0]):
        return False
    source = node
    while (before := editor.maker(source.input[0], *RESHAPING)) is not None and editor.shape(source.input[0]) != shape:
        source = before
    if not _same_shape(editor.shape(source.input[0]), shape):
        return False
    return editor.redirect(node.output[0], source.input[0])


def _same_shape(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    """Tell whether shapes agree in all but the batch, which a Reshape's shape inference names anew."""
    return (
        len(one) == len(other) > 1 and one[1:] == other[1:] and all(isinstance(size, int) and size for size in one[1:])
    )


def _flatten_concat(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Join the parts of what is joined already: as bytes they are rounded to one scale, not to each on the way."""
    if node.op_type != "Concat":
        return False
    axis = _axis(editor, node)
    inner = [editor.maker(name, "Concat") for name in node.input]
    parts = [
        list(maker.input) if maker is not None and _axis(editor, maker) == axis else [name]
        for name, maker in zip(node.input, inner, strict=True)
    ]
    if len(parts) == sum(map(len, parts)):
        return False
    new = helper.make_node("Concat", [name for names in parts for name in names], node.output, node.name, axis=axis)
    return editor.replace([node], new)


def _axis(editor: GraphEditor, node: onnx.NodeProto) -> int:
    axis = int(next(item.i for item in node.attribute if item.name == "axis"))
    return axis if axis >= 0 else axis + len(editor.shape(node.output[0]))


def _hard_sigmoid(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    value, three = editor.operand(node)
    clip = editor.only_taker(node, "Clip") if node.op_type == "Add" else None
    product = editor.only_taker(clip, "Mul") if clip is not None and len(clip.input) == 3 else None
    if clip is None or product is None:
        return False
    found = [editor.scalar(name) for name in (three, *clip.input[1:], editor.operand(product)[1])]
    if not np.allclose(found, (3, 0, 6, 1 / 6), rtol=TOLERANCE):
        return False
    new = helper.make_node("HardSigmoid", [value], product.output, name=product.name, alpha=1 / 6, beta=0.5)
    return editor.replace([node, clip, product], new)


def _gelu(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Match Mul(Mul(0.5, x), Sub(1, Erf(Mul(Neg(x), 1/√2)))) at its Erf."""
    scaled = editor.maker(node.input[0], "Mul") if node.op_type == "Erf" else None
    negative = editor.maker(editor.operand(scaled)[0], "Neg") if scaled is not None else None
    less = editor.only_taker(node, "Sub")
    product = editor.only_taker(less, "Mul") if less is not None else None
    if scaled is None or negative is None or less is None or product is None:
        return False
    value = negative.input[0]
    half = next((editor.maker(name, "Mul") for name in product.input if name != less.output[0]), None)
    if half is None or editor.operand(half)[0] != value:
        return False
    found = [editor.scalar(name) for name in (editor.operand(half)[1], less.input[0], editor.operand(scaled)[1])]
    if not np.allclose(found, (0.5, 1, math.sqrt(0.5)), rtol=TOLERANCE):
        return False
    names = [f"{product.name}/{part}" for part in ("scaled", "erf", "one", "times")]
    constants = [editor.constant(f"{product.name}/constant", np.array(c)) for c in (math.sqrt(2), 1.0, 0.5)]
    steps = [
        ("Div", [value, constants[0]], names[0]),
        ("Erf", [names[0]], names[1]),
        ("Add", [names[1], constants[1]], names[2]),
        ("Mul", [value, names[2]], names[3]),
        ("Mul", [names[3], constants[2]], product.output[0]),
    ]
    new = [helper.make_node(operator, inputs, [made], name=product.name) for operator, inputs, made in steps]
    return editor.replace([node, less, product], *new)


@dataclass(frozen=True)
class _Moments:
    """What normalizes a tensor: the mean and the variance over an axis, and the node that makes the latter."""

    value: str
    mean: str
    axis: int


def _moments(editor: GraphEditor, node: onnx.NodeProto) -> _Moments | None:
    """Match ReduceMean((x - mean(x))^2), with the mean over the same axis."""
    axes = _mean_axes(editor, node)
    square = editor.maker(node.input[0], "Mul") if len(axes) == 1 else None
    centred = editor.maker(square.input[0], "Sub") if square is not None and len(set(square.input)) == 1 else None
    if centred is None:
        return None
    mean = editor.maker(_behind_reshapes(editor, centred.input[1]), *MEANS)
    if mean is None or mean.input[0] != centred.input[0] or _mean_axes(editor, mean) != axes:
        return None
    rank = len(editor.shape(centred.input[0]))
    return _Moments(centred.input[0], mean.output[0], axes[0] % rank) if rank else None


def _mean_axes(editor: GraphEditor, node: onnx.NodeProto) -> list[int]:
    """Return the axes that a node takes the mean over; tf2onnx writes that of rows as a pooling of (N, T, F)."""
    rank = len(editor.shape(node.input[0]))
    if node.op_type == "GlobalAveragePool":
        return list(range(2, rank))
    return [axis % rank for axis in integers_of(node, "axes")] if node.op_type == "ReduceMean" and rank else []


def _layer_norm(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Match x · r + (shift - mean · r), r = scale / √(variance + ε), at its variance; Keras writes it so."""
    moments = _moments(editor, node)
    shifted = editor.only_taker(node, "Add") if moments is not None else None
    root = editor.only_taker(shifted, "Sqrt") if shifted is not None else None
    rate = editor.only_taker(root, "Reciprocal") if root is not None else None
    if moments is None or shifted is None or rate is None:
        return False
    scaled = editor.only_taker(rate, "Mul")
    gamma = editor.value(editor.operand(scaled)[1]) if scaled is not None else None
    last = scaled if scaled is not None and gamma is not None else rate
    products = editor.takers(last.output[0])
    direct = next((item for item in products if moments.value in item.input), None)
    moved = next((item for item in products if item is not direct), None)
    if len(products) != 2 or direct is None or moved is None or {item.op_type for item in products} != {"Mul"}:
        return False
    other = next(name for name in moved.input if name != last.output[0])
    negative = editor.maker(other, "Neg")
    if _behind_reshapes(editor, negative.input[0] if negative is not None else other) != moments.mean:
        return False
    end, beta = _shift(editor, direct, moved, negated=negative is not None)
    size = editor.shape(moments.value)[moments.axis]
    epsilon = editor.scalar(editor.operand(shifted)[1])
    if end is None or not isinstance(size, int) or math.isnan(epsilon):
        return False
    return _write_layer_norm(editor, end, moments, (gamma, beta, size, epsilon))


def _behind_reshapes(editor: GraphEditor, name: str) -> str:
    while (node := editor.maker(name, *RESHAPING)) is not None:
        name = node.input[0]
    return name


def _shift(
    editor: GraphEditor, direct: onnx.NodeProto, moved: onnx.NodeProto, *, negated: bool
) -> tuple[onnx.NodeProto | None, Float64 | None]:
    """Find the node that adds up x · r and the shift, and the shift's constant part."""
    step = editor.only_taker(moved, "Add" if negated else "Sub")
    beta: Float64 | None = None
    if step is not None and direct.output[0] not in step.input:
        constant = editor.operand(step)[1]
        beta = editor.value(constant)
        if beta is None or (not negated and step.input[0] != constant):
            return None, None
        step = editor.only_taker(step, "Add")
    if step is None or direct.output[0] not in step.input:
        return None, None
    return (step, beta) if editor.only_taker(direct, step.op_type) is step else (None, None)


def _write_layer_norm(
    editor: GraphEditor,
    end: onnx.NodeProto,
    moments: _Moments,
    parts: tuple[Float64 | None, Float64 | None, int, float],
) -> bool:
    """Write it over the last axis, where the operator has it; channels of images are moved there and back."""
    gamma, beta, size, epsilon = parts
    rank = len(editor.shape(moments.value))
    if any(part is not None and part.size not in (1, size) for part in (gamma, beta)):
        return False
    moves = moments.axis != rank - 1
    if moves and (rank, moments.axis) != (IMAGE_RANK, 1):
        return False
    scale = np.broadcast_to(np.ones(1) if gamma is None else gamma.reshape(-1), size)
    shift = np.broadcast_to(np.zeros(1) if beta is None else beta.reshape(-1), size)
    constants = [editor.constant(f"{end.name}/{name}", value) for name, value in (("scale", scale), ("shift", shift))]
    taken, made = (f"{end.name}/taken", f"{end.name}/made") if moves else (moments.value, end.output[0])
    new = [helper.make_node("LayerNormalization", [taken, *constants], [made], name=end.name, axis=-1, epsilon=epsilon)]
    if moves:
        new.insert(0, helper.make_node("Transpose", [moments.value], [taken], name=end.name, perm=CHANNELS_LAST))
        new.append(helper.make_node("Transpose", [made], end.output, name=end.name, perm=CHANNELS_FIRST))
    return editor.replace([end], *new)


def _fold_pad(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Give zeros around an image to the convolutions, or poolings of what is never negative, that take them."""
    pads = editor.value(node.input[1]) if _is_zero_pad(editor, node) else None
    behind = editor.takers(node.output[0])
    if pads is None or len(pads) != 2 * IMAGE_RANK or not behind:
        return False
    maker = editor.maker(node.input[0])
    poolable = maker is not None and maker.op_type in NEVER_NEGATIVE
    fits = all(item.op_type == "Conv" or (poolable and item.op_type == "MaxPool") for item in behind)
    ends = pads.reshape(2, IMAGE_RANK)
    if not fits or ends[:, :2].any() or (ends < 0).any():
        return False
    if any(_is_automatic(item) or _ceils(item) for item in behind):
        return False
    for item in behind:
        own = np.array(integers_of(item, "pads") or [0] * 4) + ends[:, 2:].reshape(-1).astype(int)
        if item.op_type == "MaxPool" and (own >= np.tile(integers_of(item, "kernel_shape"), 2)).any():
            return False
    for item in behind:
        own = np.array(integers_of(item, "pads") or [0] * 4) + ends[:, 2:].reshape(-1).astype(int)
        for index in reversed(range(len(item.attribute))):
            if item.attribute[index].name in ("pads", "auto_pad"):
                del item.attribute[index]
        item.attribute.append(helper.make_attribute("pads", own.tolist()))
    return editor.redirect(node.output[0], node.input[0])


def _keep_pad(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Let zeros around what is pooled be the smallest number instead.

    ONNX Runtime hands zeros to the pooling, where they mean that nothing is there, and Triton's can't be told not to.
    What is never negative had its zeros handed on already.
    """
    if not _is_zero_pad(editor, node) or all(item.op_type != "MaxPool" for item in editor.takers(node.output[0])):
        return False
    smallest = editor.constant(f"{node.name}/nearly_zero", np.array(NEARLY_ZERO))
    node.input[:] = [*node.input[:2], smallest, *node.input[3:]]
    return True


def _is_zero_pad(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    mode = next((item.s for item in node.attribute if item.name == "mode"), b"constant")
    given = len(node.input) > 2 and node.input[2]
    return node.op_type == "Pad" and mode == b"constant" and (not given or editor.scalar(node.input[2]) == 0)


def _is_automatic(node: onnx.NodeProto) -> bool:
    return any(item.name == "auto_pad" and item.s not in (b"NOTSET", b"VALID") for item in node.attribute)


def _ceils(node: onnx.NodeProto) -> bool:
    return any(item.name == "ceil_mode" and item.i for item in node.attribute)


def _fold_scale(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Fold a factor or an offset of each channel into the convolution before it, which nothing else takes."""
    value, constant = editor.operand(node) if node.op_type in ("Mul", "Add") else ("", "")
    before = editor.maker(value, "Conv")
    kernel = editor.value(before.input[1]) if before is not None else None
    if before is None or kernel is None or editor.only_taker(before, node.op_type) is not node:
        return False
    factors = _channels(editor, constant, len(kernel))
    bias = editor.value(before.input[2]) if len(before.input) > 2 else np.zeros(len(kernel))
    if factors is None or bias is None:
        return False
    if node.op_type == "Mul":
        kernel, bias = kernel * factors.reshape(-1, 1, 1, 1), bias * factors
        if not bias.any() and len(before.input) == 2:
            bias = None
    else:
        bias = bias + factors
    new = onnx.NodeProto()
    new.CopyFrom(before)
    new.name = node.name
    new.output[0] = node.output[0]
    new.input[:] = [before.input[0], before.input[1]]
    if node.op_type == "Mul":
        new.input[1] = editor.constant(f"{node.name}/kernel", kernel)
    if bias is not None:
        new.input.append(editor.constant(f"{node.name}/bias", bias))
    return editor.replace([before, node], new)


def _channels(editor: GraphEditor, name: str, count: int) -> Float64 | None:
    """Return a constant that has one value, or one for each channel of images (N, C, H, W), as (C,); else None."""
    values = editor.value(name)
    if values is None or values.ndim > IMAGE_RANK:
        return None
    full = values.reshape((1,) * (IMAGE_RANK - values.ndim) + values.shape)
    return np.broadcast_to(full.reshape(-1), count) if full.shape in ((1, count, 1, 1), (1, 1, 1, 1)) else None


def _batch_norm(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Write factors of channels, with offsets that follow, as a depthwise convolution of 1x1."""
    value, constant = editor.operand(node) if node.op_type == "Mul" else ("", "")
    shape = editor.shape(constant)
    if len(shape) != IMAGE_RANK or len(editor.shape(value)) != IMAGE_RANK or math.prod(map(int, shape)) == 1:
        return False
    count = int(shape[1])
    factors = _channels(editor, constant, count)
    if factors is None:
        return False
    added = editor.only_taker(node, "Add")
    offsets = _channels(editor, editor.operand(added)[1], count) if added is not None else None
    end = added if added is not None and offsets is not None else node
    offsets = np.zeros(count) if offsets is None else offsets
    return editor.replace([node, end], _depthwise(editor, end, value, factors, offsets))


def _batch_norm_operator(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    if node.op_type != "BatchNormalization" or len(editor.shape(node.input[0])) != IMAGE_RANK:
        return False
    parts = [editor.value(name) for name in node.input[1:]]
    gamma, beta, mean, variance = (part for part in parts if part is not None)
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    factors = gamma / np.sqrt(variance + epsilon)
    return editor.replace([node], _depthwise(editor, node, node.input[0], factors, beta - mean * factors))


def _depthwise(
    editor: GraphEditor, end: onnx.NodeProto, value: str, factors: Float64, offsets: Float64
) -> onnx.NodeProto:
    kernel = editor.constant(f"{end.name}/kernel", factors.reshape(-1, 1, 1, 1))
    bias = editor.constant(f"{end.name}/bias", offsets)
    name = f"{end.name}/affine"
    return helper.make_node(
        "Conv", [value, kernel, bias], end.output, name=name, group=len(factors), kernel_shape=[1, 1]
    )


REWRITES: tuple[Rewrite, ...] = (
    _skip_reshapes,
    _flatten_concat,
    _hard_sigmoid,
    _gelu,
    _layer_norm,
    _fold_pad,
    _keep_pad,
    _fold_scale,
    _batch_norm_operator,
    _batch_norm,
)
