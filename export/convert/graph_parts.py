"""Takes graphs apart: what makes some tensors alone, and the CNN beside what stands behind it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
from onnx import TensorProto, helper

from .graph_reading import producers, tensor_types

IMAGE, SEQUENCE = "image", "sequence"


def part_for(model: onnx.ModelProto, outputs: Iterable[str], given: Collection[str] = ()) -> onnx.ModelProto:
    """Copy what a graph needs to make ``outputs``, its inputs and weights too, and nothing else.

    Tensors that are ``given`` become inputs, after the graph's own. The new inputs and outputs are in FP32.
    """
    graph, wanted = model.graph, list(outputs)
    makers = producers(graph.node)
    needed, left = set[str](), list(wanted)
    while left:
        name = left.pop()
        if name not in needed and name in makers and name not in given:
            left.extend(makers[name].input)
        needed.add(name)
    declared = {value.name: value for value in graph.output}
    part = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, producer_name=model.producer_name
    )
    part.graph.name = graph.name
    made = needed.difference(given)
    part.graph.node.extend(node for node in graph.node if not made.isdisjoint(node.output))
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    part.graph.input.extend(value for value in graph.input if value.name in needed)
    part.graph.input.extend(_float(name) for name in given)
    part.graph.output.extend(declared.get(name) or _float(name) for name in wanted)
    return part


def split_behind_image(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto] | None:
    """Take a hybrid's graph apart: what follows from the image alone, and all else, which takes what leaves the first.

    The first part makes what the second takes, and those of the graph's outputs that it reaches. Where there is only
    one input, or something else than floats would pass from the one to the other, the result is None.
    """
    if {value.name for value in model.graph.input} != {IMAGE, SEQUENCE}:
        return None
    seen, mixed = {IMAGE}, {SEQUENCE}
    for node in model.graph.node:
        for reached in (mixed, seen):
            if not reached.isdisjoint(node.input):
                reached.update(node.output)
                break
    behind = [node for node in model.graph.node if not mixed.isdisjoint(node.output)]
    leaving = list(dict.fromkeys(name for node in behind for name in node.input if name in seen))
    types = tensor_types(model)
    if not leaving or IMAGE in leaving or any(types.get(name) != TensorProto.FLOAT for name in leaving):
        return None
    first = [value.name for value in model.graph.output if value.name in seen]
    others = [value.name for value in model.graph.output if value.name not in seen]
    return part_for(model, dict.fromkeys([*first, *leaving])), part_for(model, others, leaving)


def _float(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
