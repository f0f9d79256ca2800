"""Reads off a graph in which precision each of its branches really runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto

from ..convert.layers import CONTRIBUTED, is_pointwise
from .check import count_operators, count_steps
from .layers import branch_of, producers

__all__ = ["describe", "operations"]

NAMES: dict[int, str] = {int(TensorProto.FLOAT): "FP32", int(TensorProto.FLOAT16): "FP16"}
WEIGHTS = {"Conv": "convolutions", "MatMul": "matrix products", "Gemm": "matrix products", "LSTM": "LSTM"}
ORDER = ("INT8", "FP16", "FP32")


def operations(model: onnx.ModelProto) -> dict[str, str]:
    """Return the precision of each operation that has weights, by node name: ``INT8``, ``FP16`` or ``FP32``.

    An operation is INT8 if both its inputs are integers: an integer operator, or one with DequantizeLinear on both.
    """
    makers = producers(model.graph.node)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {node.name: _precision(node, makers, types) for node in model.graph.node if _kind(node)}


def describe(model: onnx.ModelProto) -> tuple[str, ...]:
    """Describe each branch, and the form of the recurrent one, in lines for the report.

    Such lines are ``CNN: 74/74 convolutions INT8``, ``recurrent branch: 2/2 LSTM FP16`` and ``recurrent form: 2 LSTM, 0
    Loop, 0 unrolled steps``.
    """
    found = operations(model)
    kinds = {node.name: _kind(node) for node in model.graph.node}
    lines = []
    for branch, title in (("cnn", "CNN"), ("rnn", "recurrent branch")):
        names = [name for name in found if branch_of(name) == branch]
        if names:
            lines.append(f"{title}: {', '.join(_counts(names, found, kinds))}")
    if any(branch_of(name) == "rnn" for name in found):
        counts = count_operators(model)
        forms = f"{counts.get('LSTM', 0)} LSTM, {counts.get('Loop', 0)} Loop, {count_steps(model)} unrolled steps"
        lines.append(f"recurrent form: {forms}")
    return tuple(lines)


def _counts(names: Iterable[str], found: Mapping[str, str], kinds: Mapping[str, str]) -> Iterable[str]:
    pairs = Counter((kinds[name], found[name]) for name in names)
    for kind in dict.fromkeys(WEIGHTS.values()):
        total = sum(count for (of, _), count in pairs.items() if of == kind)
        for precision in ORDER:
            if count := pairs[kind, precision]:
                yield f"{count}/{total} {kind} {precision}"


def _kind(node: onnx.NodeProto) -> str:
    if node.domain == CONTRIBUTED:
        return WEIGHTS["Conv" if is_pointwise(node) else "MatMul"]
    return WEIGHTS.get(node.op_type, "")


def _precision(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], types: Mapping[str, int]) -> str:
    if node.domain == CONTRIBUTED:
        return "INT8"
    both = [makers.get(name) for name in node.input[:2]]
    if all(maker is not None and maker.op_type == "DequantizeLinear" for maker in both):
        return "INT8"
    return NAMES[types[node.input[1]]]
