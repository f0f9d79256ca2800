"""Read off a graph what it must compute and read at least: products by branch and arithmetic, and weights.

What an engine fuses into its neighbours (a bias, an activation function, quantization, a change of layout) costs
nothing here.
"""

from __future__ import annotations

import math
from collections import Counter

import onnx

from ...runtime.roofline import Arithmetic, BranchCost, Cost, WeightReads
from ..convert.graph_reading import branch_of, producers, tensor_shapes
from ..convert.inspection import operations

# a tensor behind one of these is the same tensor in another form; a constant likewise, such as an LSTM's first states
FORMS = ("Cast", "DequantizeLinear", "Expand", "QuantizeLinear")
ARITHMETIC: dict[str, Arithmetic] = {"FP32": "fp32", "FP16": "fp16", "INT8": "int8"}
RECURRENT_INPUT = 2  # the place of R among an LSTM operator's inputs: X, W, R, B, and states
MIN_REREAD = 2**16  # bytes; smaller constants, such as scales, stay in the nearest cache after they were read once


def measure_cost(model: onnx.ModelProto) -> Cost:
    """Measure the cost for one image of a graph that the exporter wrote, in FP32, FP16 or INT8 for any target.

    Raises:
        ConversionError: the shape of a tensor can't be inferred.
    """
    graph = _Graph(model)
    branches = {name: graph.branch(name) for name in dict.fromkeys(branch_of(node.name) for node in graph.products)}
    return Cost(head=branches.get("head", BranchCost()), cnn=branches.get("cnn"), recurrent=branches.get("rnn"))


class _Graph:
    """A graph with the shapes and makers of its tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        nodes = model.graph.node
        self._arithmetic = operations(model)
        self.products = [node for node in nodes if node.name in self._arithmetic]
        self._nodes = nodes
        self._shapes = tensor_shapes(model)
        self._makers = producers(nodes)
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._reads = self._count_reads()

    def branch(self, name: str) -> BranchCost:
        macs = Counter[Arithmetic]()
        for node in self.products:
            if branch_of(node.name) == name:
                macs[ARITHMETIC[self._arithmetic[node.name]]] += self._macs(node)
        return BranchCost(dict(macs), self._weights(name))

    def _macs(self, node: onnx.NodeProto) -> int:
        weight = self._shapes[node.input[1]].dims
        if node.op_type == "LSTM":  # X (T, 1, I), W (1, 4H, I), R (1, 4H, H)
            steps = self._shapes[node.input[0]].dims[0]
            recurrent = self._shapes[node.input[RECURRENT_INPUT]].size
            return steps * math.prod(weight) + (steps - 1) * recurrent
        values = self._shapes[node.output[0]].size
        if node.op_type == "Conv":  # (O, I / groups, H, W)
            return values * math.prod(weight[1:])
        return values * self._shapes[node.input[0]].dims[-1]

    def _count_reads(self) -> Counter[tuple[str, str]]:
        """Count how often a batch reads each constant, by branch and name; one that several take is the first's."""
        homes: dict[str, str] = {}
        reads = Counter[tuple[str, str]]()
        for node in self._nodes:
            for index, name in enumerate(node.input):
                constant = self._stored(name)
                if constant in self._constants and node.op_type not in FORMS:
                    home = homes.setdefault(constant, branch_of(node.name))
                    reads[home, constant] += self._steps(node) if index == RECURRENT_INPUT else 1
        return reads

    def _steps(self, node: onnx.NodeProto) -> int:
        """Count how often a node reads its third input: an LSTM reads R at each step but the first."""
        return max(1, self._shapes[node.input[0]].dims[0] - 1) if node.op_type == "LSTM" else 1

    def _weights(self, branch: str) -> tuple[WeightReads, ...]:
        reads = [(self._bytes(name), times) for (home, name), times in self._reads.items() if home == branch]
        again = [WeightReads(size, times) for size, times in reads if times > 1 and size >= MIN_REREAD]
        once = sum(size for size, _ in reads) - sum(item.bytes for item in again)
        return (*again, WeightReads(once, 1)) if once else tuple(again)

    def _stored(self, name: str) -> str:
        """Return the name of the constant that a constant is made from, or of the tensor itself."""
        maker = self._makers.get(name)
        while maker is not None and maker.op_type in FORMS:
            name = maker.input[0]
            maker = self._makers.get(name)
        return name

    def _bytes(self, name: str) -> int:
        return self._shapes[name].size * self._shapes[name].itemsize
