"""Finds which tensors of a graph have their channels in common, from convolution to convolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from ..convert.graph_reading import arrays, channel_counts, constant_shapes, groups_of, producers, takers

HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool")  # f(a x) = a f(x) for a > 0
JOINING = (*HOMOGENEOUS, "Add", "GlobalAveragePool", "Clip")  # channel c of what they give is made of channels c alone


@dataclass(frozen=True)
class ChannelGroup:
    """Tensors between convolutions, joined by operators that keep channels apart: all can be scaled alike.

    Attributes:
        makers: the convolutions that make one of the tensors.
        takers: pairs of a tensor and a convolution that takes it.
        leaving: pairs of a tensor and a node that takes it and is neither a convolution nor keeps channels apart.
        whole: whether every tensor comes from a convolution or from within the group.
        clips: the Clips from zero to a constant among the operators that join the tensors.
    """

    tensors: tuple[str, ...]
    makers: tuple[onnx.NodeProto, ...]
    takers: tuple[tuple[str, onnx.NodeProto], ...]
    leaving: tuple[tuple[str, onnx.NodeProto], ...]
    whole: bool
    clips: tuple[onnx.NodeProto, ...] = ()


def channel_groups(model: onnx.ModelProto, *, through_depthwise: bool = False) -> Iterator[ChannelGroup]:
    """Yield every group of which a convolution makes or takes a tensor, of an FP32 graph with images as (N, C, H, W).

    With ``through_depthwise`` a depthwise convolution joins what it takes with what it makes.
    """
    nodes, names = model.graph.node, _Disjoint()
    shapes, joining = constant_shapes(model), _joining(model)
    convolved = set[str]()
    for node in nodes:
        if node.op_type == "Conv":
            convolved |= {names.find(node.input[0]), names.find(node.output[0])}
            if through_depthwise and groups_of(node) == shapes[node.input[1]][0] > 1:
                names.join(node.input[0], node.output[0])
        elif node.output[0] in joining:
            for name in _values_of(node):
                names.join(name, node.output[0])
    made, taken = producers(nodes), takers(nodes)
    for tensors in names.groups():
        if not convolved.isdisjoint(tensors):
            yield _group(tensors, joining, made, taken)


def _joining(model: onnx.ModelProto) -> set[str]:
    """Name the results that are made of channel c of every input alone, none of them a constant or spread over them."""
    channels, constants, values = channel_counts(model), constant_shapes(model), arrays(model)
    return {
        node.output[0]
        for node in model.graph.node
        if node.op_type in JOINING
        and (node.op_type == "Clip" or constants.keys().isdisjoint(node.input))
        and (node.op_type != "Clip" or _cuts_from_zero(node, values))
        and len({channels.get(name) for name in (*_values_of(node), node.output[0])}) == 1
    }


def _group(
    tensors: list[str],
    joining: set[str],
    made: Mapping[str, onnx.NodeProto],
    taken: Mapping[str, list[onnx.NodeProto]],
) -> ChannelGroup:
    makers = [made.get(name) for name in tensors]
    behind = [(name, node) for name in tensors for node in taken[name]]
    return ChannelGroup(
        tuple(tensors),
        tuple(node for node in makers if node is not None and node.op_type == "Conv"),
        tuple((name, node) for name, node in behind if node.op_type == "Conv"),
        tuple((name, node) for name, node in behind if node.op_type != "Conv" and node.output[0] not in joining),
        all(node is not None and (node.op_type == "Conv" or node.output[0] in joining) for node in makers),
        tuple(node for node in makers if node is not None and node.op_type == "Clip" and node.output[0] in joining),
    )


def _values_of(node: onnx.NodeProto) -> list[str]:
    """Return the activations among a joining operator's inputs: a Clip's others are its limits."""
    return list(node.input[:1] if node.op_type == "Clip" else node.input)


def _cuts_from_zero(node: onnx.NodeProto, values: Mapping[str, npt.NDArray[np.generic]]) -> bool:
    """Tell whether a Clip cuts at zero and at one positive constant, as ReLU6 does."""
    limits = [values[name] for name in node.input[1:] if name in values]
    return len(limits) == 2 and all(limit.size == 1 for limit in limits) and float(limits[0].item()) == 0.0


class _Disjoint:
    """Joins names into disjoint groups (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, name: str) -> str:
        """Return the name that stands for the group of ``name``."""
        while self._parents.setdefault(name, name) != name:
            name = self._parents[name]
        return name

    def join(self, one: str, other: str) -> None:
        self._parents[self.find(one)] = self.find(other)

    def groups(self) -> list[list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._parents:
            found.setdefault(self.find(name), []).append(name)
        return list(found.values())
