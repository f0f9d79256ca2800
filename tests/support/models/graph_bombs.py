"""Graphs of few bytes that ask for very much memory, or time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import helper

from support.models.hostile_graphs import HUGE, changed, node, nodes, sized, weight


def bombs() -> Iterator[tuple[str, bytes]]:
    """Few bytes that ask for very much memory, or time."""
    for sizes in ([2_500_000_000], [50_000, 50_000], [HUGE, HUGE, HUGE], [2**62], [-1], [10**5] * 8, [9] * 64):
        yield f"ConstantOfShape {sizes[:3]}", sized("ConstantOfShape", sizes)
    yield (
        "EyeLike of a large constant",
        changed(weight("s", [10**5, 10**5]), nodes(("ConstantOfShape", ["s"], "c"), ("EyeLike", ["c"], "x"))),
    )
    yield "Expand", sized("Expand", [10**4, 12, 12, 300], "image")
    yield (
        "Expand of a number",
        changed(weight("one", 1.0, np.float32), weight("s", [2**33]), node("Expand", "one", "s")),
    )
    yield (
        "Expand by what an image shows",
        changed(
            nodes(("Cast", ["image"], "c"), ("Reshape", ["c", "flat"], "f"), ("Expand", ["image", "f"], "x"), to=7),
            weight("flat", [-1]),
        ),
    )
    yield "Tile", sized("Tile", [10**9, 1, 1, 1], "image")
    yield "Tile on every axis", sized("Tile", [1, 999, 999, 999], "image")
    yield "Tile below 0", sized("Tile", [1, -1, -1, 1], "image")
    for mode in ("constant", "reflect", "edge"):
        yield f"Pad, {mode}", sized("Pad", [0, 10**5, 10**5, 0] * 2, "image", mode=mode)
    yield "Pad of another rank", sized("Pad", [10**9], "image")
    yield "Resize to sizes", sized("Resize", [1, 10**6, 10**6, 3], "image", "", "")
    for factor in (1e6, float("inf"), float("nan"), -1.0, 0.0, 3e38):
        scales = weight("scales", [1, factor, factor, 1], np.float32)
        yield f"Resize by {factor}", changed(scales, node("Resize", "image", "", "scales"))
    yield "Range", changed(weight("a", 0), weight("b", 2**40), weight("c", 1), node("Range", "a", "b", "c"))
    yield "Range by 0", changed(weight("a", 0), weight("b", 9), weight("c", 0), node("Range", "a", "b", "c"))
    yield "Range below 0", changed(weight("a", 2**40), weight("b", 0), weight("c", -1), node("Range", "a", "b", "c"))
    yield (
        "Concat doubled 40 times",
        changed(nodes(*(("Concat", [f"t{n}" if n else "image"] * 2, f"t{n + 1}") for n in range(40)), axis=1)),
    )
    yield (
        "Concat of 3,000",
        changed(nodes(*(("Concat", [f"t{n}" if n else "image"] * 3000, f"t{n + 1}") for n in range(2)), axis=1)),
    )
    yield (
        "Concat of shapes doubled 40 times",
        changed(
            nodes(("Shape", ["image"], "t0")),
            lambda m: [
                m.graph.node.insert(n + 1, helper.make_node("Concat", [f"t{n}"] * 2, [f"t{n + 1}"], axis=0))
                for n in range(40)
            ],
        ),
    )
    yield (
        "a sum of a row and a column",
        changed(
            weight("a", np.zeros((40_000, 1)), np.float32),
            weight("b", np.zeros((1, 40_000)), np.float32),
            node("Add", "a", "b"),
        ),
    )
    yield (
        "Where of a row and a column",
        changed(
            weight("a", np.zeros((40_000, 1)), np.float32),
            weight("b", np.zeros((1, 40_000)), np.float32),
            node("Where", "a", "b", "b"),
        ),
    )
    for operator, inputs in (("MatMul", ["a", "b"]), ("Gemm", ["a", "b"])):
        yield (
            f"{operator} of a column and a row",
            changed(
                weight("a", np.zeros((40_000, 1)), np.float32),
                weight("b", np.zeros((1, 40_000)), np.float32),
                node(operator, *inputs),
            ),
        )
    yield (
        "Einsum of two columns",
        changed(weight("a", np.zeros(40_000), np.float32), node("Einsum", "a", "a", equation="i,j->ij")),
    )
    yield "Einsum without an equation", changed(node("Einsum", "image", equation=""))
    yield (
        "Gather of one row very often",
        changed(
            weight("a", np.zeros((1, 10_000)), np.float32), weight("i", np.zeros(50_000)), node("Gather", "a", "i")
        ),
    )
    kernel = weight("k", np.zeros((1, 12, 1, 1)), np.float32)
    for name, settings in {
        "pads": {"pads": [50_000] * 4},
        "pads below 0": {"pads": [-9] * 4},
        "strides of 0": {"strides": [0, 0]},
        "dilations of 0": {"dilations": [0, 0]},
        "pads of a hidden image": {"pads": [50_000] * 4, "strides": [99_999, 99_999]},
        "another rank": {"strides": [1]},
    }.items():
        yield f"Conv with {name}", changed(kernel, node("Conv", "image", "k", **settings))
    yield "MaxPool with pads", changed(node("MaxPool", "image", kernel_shape=[1, 1], pads=[50_000] * 4))
    yield "AveragePool without a kernel", changed(node("AveragePool", "image"))
    upward = weight("k", np.zeros((12, 1, 1, 1)), np.float32)
    for name, settings in {
        "strides": {"strides": [50_000, 50_000]},
        "padding": {"output_padding": [50_000, 50_000]},
        "a shape": {"output_shape": [50_000, 50_000]},
        "groups": {"group": 2**40},
        "a shape below 0": {"output_shape": [-5, -5]},
        "dilations": {"dilations": [2**40, 1], "strides": [2**40, 1]},
    }.items():
        yield f"ConvTranspose with {name}", changed(upward, node("ConvTranspose", "image", "k", **settings))
    for side in (0, -1, 2**20):
        yield f"DepthToSpace by {side}", changed(node("DepthToSpace", "image", blocksize=side))
    lstm = (weight("w", np.zeros((1, 400, 24)), np.float32), weight("r", np.zeros((1, 400, 100)), np.float32))
    yield "LSTM of another width", changed(*lstm, node("LSTM", "sequence", "w", "r", hidden_size=2**30))
    yield "LSTM of another layout", changed(*lstm, node("LSTM", "sequence", "w", "r", hidden_size=100, layout=1))
    yield (
        "LSTM of very many steps",
        changed(
            *lstm, weight("s", [2**22, 1, 24]), nodes(("ConstantOfShape", ["s"], "c"), ("LSTM", ["c", "w", "r"], "x"))
        ),
    )
    for sizes in ([2**40, 12], [-1, -1], [0, 0, 0, 0, 0], [-5, 5], [7, 7, 7]):
        yield f"Reshape to {sizes}", sized("Reshape", sizes, "image")
    yield "Split into more", sized("Split", [10**9, 3], "image", outputs=("x", "y"), axis=3)
    yield "Split below 0", sized("Split", [-(10**9), 10**9 + 3], "image", outputs=("x", "y"), axis=3)
    yield "Transpose by what is no order", changed(node("Transpose", "image", perm=[0, 0, 1, 9]))
    yield "Squeeze of what is wide", sized("Squeeze", [1], "image")
    yield "Unsqueeze by one axis twice", sized("Unsqueeze", [5, 5], "image", outputs=("x",))
    yield "Unsqueeze very often", sized("Unsqueeze", list(range(4, 68)), "image", outputs=("x",))
    table = weight("table", [1] * 7 + [1] + [2**40] * 24)
    count = ("Shape", ["image"], "n")
    yield (
        "a size looked up by the number of images",
        changed(
            table,
            weight("zero", [0]),
            nodes(
                count, ("Gather", ["n", "zero"], "i"), ("Gather", ["table", "i"], "s"), ("ConstantOfShape", ["s"], "x")
            ),
        ),
    )
    yield (
        "a size cut out by the number of images",
        changed(
            table,
            weight("zero", [0]),
            weight("end", [2**40]),
            nodes(
                count,
                ("Gather", ["n", "zero"], "i"),
                ("Slice", ["table", "i", "end"], "t"),
                ("Gather", ["t", "zero"], "s"),
                ("ConstantOfShape", ["s"], "x"),
            ),
        ),
    )
    yield (
        "a size that is calculated",
        changed(weight("f", [2**30]), nodes(count, ("Mul", ["n", "f"], "s"), ("ConstantOfShape", ["s"], "x"))),
    )
    yield (
        "the images times the images",
        changed(
            weight("s", [-1, 1]),
            weight("t", [1, -1]),
            nodes(("Reshape", ["image", "s"], "c"), ("Reshape", ["image", "t"], "r"), ("MatMul", ["c", "r"], "p")),
            lambda m: m.graph.node.insert(3, helper.make_node("Concat", ["p"] * 4000, ["x"], axis=0)),
        ),
    )
    yield (
        "very many tensors of some size",
        changed(
            weight("s", [2**24]),
            nodes(
                *(("ConstantOfShape", ["s"], f"t{n}") for n in range(400)), ("Sum", [f"t{n}" for n in range(400)], "x")
            ),
        ),
    )
    square = weight("m", np.zeros((2048, 2048)), np.float32)
    yield (
        "products without end",
        changed(square, nodes(*(("MatMul", [f"t{n}" if n else "m", "m"], f"t{n + 1}") for n in range(2000)))),
    )
    wide = weight("k", np.zeros((256, 12, 30, 3)), np.float32)
    yield (
        "convolutions without end",
        changed(
            wide,
            lambda m: [
                m.graph.node.insert(n, helper.make_node("Conv", ["image", "k"], [f"t{n}"], pads=[700, 30] * 2))
                for n in range(200)
            ],
        ),
    )
    sides = (
        ("Shape", ["image"], "n"),
        ("Gather", ["n", "one"], "i"),
        ("Slice", ["table", "i", "one"], "t"),
        ("ConstantOfShape", ["t"], "x"),
    )
    yield "a size cut out by an image's side", changed(table, weight("one", [1]), nodes(*sides))
    column, row = weight("a", np.zeros(40_000), np.float32), weight("k", np.zeros((4096, 12, 1, 1)), np.float32)
    yield "Einsum that says no result", changed(column, node("Einsum", "a", "a", equation="i,j"))
    policy = {"keep_aspect_ratio_policy": "not_smaller"}
    yield "Resize by its longest side", sized("Resize", [7, 12, 12, 10**4], "image", "", "", **policy)
    yield "Resize by axes", sized("Resize", [7, 12, 12, 3], "image", "", "", axes=[3, 2, 1, 0])
    yield "a reduction of nothing", changed(node("ReduceSum", "image", noop_with_empty_axes=1))
    strides = node("Conv", "image", "k", strides=[9, 9])
    yield "steps of another type", changed(row, strides, lambda m: setattr(m.graph.node[0].attribute[0], "type", 6))
    yield "steps of no type", changed(row, strides, lambda m: m.graph.node[0].attribute[0].ClearField("type"))
    yield "steps and more", changed(row, strides, lambda m: setattr(m.graph.node[0].attribute[0], "i", 1))
