"""Rules for what convolutions, poolings, products and recurrent layers give, and what they take beside it.

Each follows the operator's definition (ONNX, "Operators").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .onnx_file import GraphFaultError
from .operator_call import Known, OperatorCall, Rule, Shape, broadcast, like, positive, together

BLOCK_SIZES = (16, 32, 64, 128, 256)  # that MatMulNBits has


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


def convolution(data: int, kernel: int) -> Rule:
    """Return the rule of a convolution, given which inputs are the image and the kernel."""

    def rule(call: OperatorCall) -> Known:
        image, weights = call.shape(data), call.shape(kernel)
        shape = (image[0], weights[0], *_windows(call, image[2:], weights[2:]))
        call.scratch *= image[0] * image[1]
        call.work = math.prod(shape) * math.prod(weights[1:])
        return Known(shape)

    return rule


def transposed_convolution(call: OperatorCall) -> Known:
    """Return what a transposed convolution gives."""
    image, weights = call.shape(0), call.shape(1)
    rank = len(image) - 2
    strides, dilations = call.integers(b"strides", [1] * rank), call.integers(b"dilations", [1] * rank)
    more, pads = call.integers(b"output_padding", [0] * rank), call.integers(b"pads", [0] * (2 * rank))
    sizes = [
        strides[axis] * (image[2 + axis] - 1) + more[axis] + dilations[axis] * (weights[2 + axis] - 1) + 1
        for axis in range(rank)
    ]
    if call.text(b"auto_pad").startswith(b"SAME"):
        sizes = [max(size, stride * own) for size, stride, own in zip(sizes, strides, image[2:], strict=True)]
    else:
        sizes = [size - pads[axis] - pads[axis + rank] for axis, size in enumerate(sizes)]
    sizes = [like(size, *image) for size in call.integers(b"output_shape") or sizes]
    shape = (image[0], like(weights[1] * call.integer(b"group", 1), *weights), *positive(sizes))
    call.work = math.prod(image) * math.prod(weights[1:])
    return Known(shape)


def pooling(call: OperatorCall) -> Known:
    """Return what a pooling gives."""
    image = call.shape(0)
    kernel = call.integers(b"kernel_shape")
    shape = (*image[:2], *_windows(call, image[2:], kernel))
    call.scratch *= image[0] * image[1]
    call.work = math.prod(shape) * math.prod(kernel)
    return Known(shape)


def global_pooling(call: OperatorCall) -> Known:
    """Return what a pooling over the whole image gives."""
    shape = call.shape(0)
    return Known((*shape[:2], *[1] * (len(shape) - 2)))


def product(first: int, second: int) -> Rule:
    """Return the rule of a matrix product, given which inputs are the matrices."""

    def rule(call: OperatorCall) -> Known:
        one, other = call.shape(first), call.shape(second)
        rows, columns = one[-2:-1], other[-1:] if len(other) > 1 else ()
        if one[-1] != other[-2:][0]:
            raise GraphFaultError(f"a product of {one} and {other}")
        shape = (*broadcast(one[:-2], other[:-2]), *rows, *columns)
        call.work = math.prod(shape) * one[-1]
        return Known(shape)

    return rule


def product_in_blocks(call: OperatorCall) -> Known:
    """Return what MatMulNBits gives, a product by a matrix of few bits with a scale for each block of a row."""
    shape, integers, scales = call.shape(0), call.shape(1), call.shape(2)
    inner, columns = call.integer(b"K", 0), call.integer(b"N", 0)
    bits, block = call.integer(b"bits", 4), call.integer(b"block_size", 0)
    if inner < 1 or columns < 1 or bits != 8 or block not in BLOCK_SIZES or len(call.inputs) > 3:
        raise GraphFaultError(f"a product in blocks of {block} with {bits} bits, {inner} by {columns}")
    blocks = -(-inner // block)
    if shape[-1] != inner or integers != (columns, blocks, block) or scales != (columns, blocks):
        raise GraphFaultError(f"a product of {shape} in blocks {integers} and scales {scales}, {inner} by {columns}")
    call.work = math.prod(shape) * columns
    return Known((*shape[:-1], columns))


def gemm(call: OperatorCall) -> Known:
    """Return what Gemm, a product of two matrices that may be transposed, gives."""
    one, other = call.shape(0), call.shape(1)
    rows, inner = reversed(one) if call.integer(b"transA", 0) else one
    _, columns = reversed(other) if call.integer(b"transB", 0) else other
    call.work = rows * inner * columns
    return Known((rows, columns))


def recurrent(units_axis: int) -> Rule:
    """Return the rule of a recurrent layer, given the axis of its recurrent weights that has the units."""

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


def einsum(call: OperatorCall) -> Known:
    """Return what a product by an equation gives."""
    terms, arrow, result = call.text(b"equation").replace(b" ", b"").partition(b"->")
    if not arrow:
        raise GraphFaultError("an equation without its result")
    sizes: dict[int, int] = {}
    for place, term in enumerate(terms.split(b",")):
        for letter, size in zip(term, call.shape(place), strict=True):
            sizes[letter] = together((sizes.get(letter, 1), size))
    call.work = math.prod(sizes.values())
    return Known(tuple(sizes[letter] for letter in result))
