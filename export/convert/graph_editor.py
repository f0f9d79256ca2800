"""GraphEditor holds an ONNX graph while parts of it are rewritten."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from .graph_reading import producers, skeleton, takers

Float64 = npt.NDArray[np.float64]


class GraphEditor:
    """A graph's nodes and constants while they are rewritten."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self.nodes = list(model.graph.node)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(skeleton(model)).graph
        self._shapes = {
            value.name: tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim)
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
            if value.type.tensor_type.HasField("shape")
        }
        self._outputs = {value.name for value in model.graph.output}
        self._look()

    def _look(self) -> None:
        self._makers, self._takers = producers(self.nodes), takers(self.nodes)

    def apply(self, rewrite: Callable[[GraphEditor, onnx.NodeProto], bool]) -> None:
        """Try a rewriting on every node, in the order of the graph, those that it made too."""
        done = set[int]()
        while waiting := [node for node in self.nodes if id(node) not in done]:
            for node in waiting:
                done.add(id(node))
                if rewrite(self, node):
                    break

    def shape(self, name: str) -> tuple[int | str, ...]:
        """Return a tensor's inferred shape, the batch by its name; () where it is unknown."""
        return tuple(self._tensors[name].dims) if name in self._tensors else self._shapes.get(name, ())

    def maker(self, name: str, *operators: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor if it is one of those operators, by default any."""
        node = self._makers.get(name)
        return node if node is not None and (not operators or node.op_type in operators) else None

    def takers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that take a tensor; none for the graph's output, which is taken from outside too."""
        return [] if name in self._outputs else self._takers[name]

    def only_taker(self, node: onnx.NodeProto, *operators: str) -> onnx.NodeProto | None:
        """Return the one node that takes a node's result, if it is one of those operators."""
        found = self.takers(node.output[0])
        return found[0] if len(found) == 1 and found[0].op_type in operators else None

    def value(self, name: str) -> Float64 | None:
        """Return a constant's values in float64; None for what is no constant."""
        tensor = self._tensors.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor), np.float64)

    def scalar(self, name: str) -> float:
        """Return the one value of a constant; NaN for anything else."""
        tensor = self._tensors.get(name)
        if tensor is None or math.prod(tensor.dims) != 1:
            return math.nan
        return float(numpy_helper.to_array(tensor).item())

    def operand(self, node: onnx.NodeProto) -> tuple[str, str]:
        """Return a node's input that is computed, and that which is constant; empty names where there are no such."""
        constants = [name for name in node.input if name in self._tensors]
        others = [name for name in node.input if name not in self._tensors]
        return (others[0], constants[0]) if len(constants) == len(others) == 1 else ("", "")

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """Add a constant of a name that is not taken, floating values in float32, and return the name."""
        count = 1
        while name in self._tensors:
            name, count = f"{name}_{count}", count + 1
        kept = values.astype(np.float32) if np.issubdtype(values.dtype, np.floating) else values
        self._tensors[name] = numpy_helper.from_array(np.ascontiguousarray(kept), name)
        return name

    def replace(self, old: list[onnx.NodeProto], *new: onnx.NodeProto) -> bool:
        """Put nodes in the place of the last of others; what was only made for those is left out by ``write``."""
        gone = {id(node) for node in old}
        place = max(index for index, node in enumerate(self.nodes) if id(node) in gone)
        self.nodes[place + 1 : place + 1] = new
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self._look()
        return True

    def redirect(self, old: str, new: str) -> bool:
        """Let everything that takes one tensor take another."""
        for node in self._takers[old]:
            node.input[:] = [new if name == old else name for name in node.input]
        self._look()
        return True

    def write(self) -> None:
        """Write the nodes whose results are taken, and the constants that they take."""
        wanted = set(self._outputs)
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output):
                kept.append(node)
                wanted.update(node.input)
        nodes, tensors = kept[::-1], [tensor for name, tensor in self._tensors.items() if name in wanted]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)
        for index in reversed(range(len(self._graph.initializer))):
            if self._graph.initializer[index].name not in wanted:
                del self._graph.initializer[index]
        have = {tensor.name for tensor in self._graph.initializer}
        self._graph.initializer.extend(tensor for tensor in tensors if tensor.name not in have)
