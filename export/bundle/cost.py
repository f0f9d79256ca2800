"""Read off a graph what it must compute and read at least: products by branch and arithmetic, and weights.

What an engine fuses into its neighbours (a bias, an activation function, quantization, a change of layout) costs
nothing here.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping

import onnx

from ...runtime.roofline import Arithmetic, BranchCost, Cost, WeightReads
from ..convert.graph_reading import RECURRENT_OPERATORS, TensorShape, branch_of, producers, tensor_shapes
from ..convert.inspection import BLOCK_WEIGHTS, operations

# a tensor behind one of these is the same tensor in another form; a constant likewise, such as an LSTM's first states
FORMS = ("Cast", "DequantizeLinear", "Expand", "QuantizeLinear")
ARITHMETIC: dict[str, Arithmetic] = {"FP32": "fp32", "FP16": "fp16", "INT8": "int8", BLOCK_WEIGHTS: "int8"}
RECURRENT_INPUT = 2  # the place of R among a recurrent operator's inputs: X, W, R, B, and states
MIN_REREAD = 2**16  # bytes; smaller constants, such as scales, stay in the nearest cache after they were read once


def measure_cost(model: onnx.ModelProto) -> Cost:
    """Measure the cost for one image of a graph that the exporter wrote, in FP32, FP16 or INT8 for any target.

    Raises:
        ConversionError: the shape of a tensor can't be inferred.
    """
    shapes, precisions = tensor_shapes(model), operations(model)
    macs = defaultdict[str, Counter[Arithmetic]](Counter)
    for node in model.graph.node:
        if precision := precisions.get(node.name):
            macs[branch_of(node.name)][ARITHMETIC[precision]] += _macs(node, shapes)
    weights = _weights(model, shapes)
    branches = {name: BranchCost(dict(counts), tuple(weights[name])) for name, counts in macs.items()}
    return Cost(head=branches.get("head", BranchCost()), cnn=branches.get("cnn"), recurrent=branches.get("rnn"))


def _macs(node: onnx.NodeProto, shapes: Mapping[str, TensorShape]) -> int:
    weight = shapes[node.input[1]].dims
    if node.op_type in RECURRENT_OPERATORS:  # X (T, 1, I), W (D, G*H, I), R (D, G*H, H): D directions, G gates
        steps = shapes[node.input[0]].dims[0]
        return steps * math.prod(weight) + (steps - 1) * shapes[node.input[RECURRENT_INPUT]].size
    if node.op_type == "ConvTranspose":  # (I, O / groups, H, W)
        return shapes[node.input[0]].size * math.prod(weight[1:])
    values = shapes[node.output[0]].size
    if node.op_type == "Conv":  # (O, I / groups, H, W)
        return values * math.prod(weight[1:])
    return values * shapes[node.input[0]].dims[-1]


def _weights(model: onnx.ModelProto, shapes: Mapping[str, TensorShape]) -> Mapping[str, list[WeightReads]]:
    """List by branch the constants that a batch reads again, and the bytes of all others as one entry.

    A constant that several branches take is the first's. A recurrent operator reads its R at each step but the first.
    """
    constants, makers = {tensor.name for tensor in model.graph.initializer}, producers(model.graph.node)
    homes, times = dict[str, str](), Counter[str]()
    for node in (item for item in model.graph.node if item.op_type not in FORMS):
        for index, constant in enumerate(_stored(name, makers) for name in node.input):
            again = node.op_type in RECURRENT_OPERATORS and index == RECURRENT_INPUT
            if constant in constants:
                homes.setdefault(constant, branch_of(node.name))
                times[constant] += max(1, shapes[node.input[0]].dims[0] - 1) if again else 1
    sizes = {name: shapes[name].size * shapes[name].itemsize for name in homes}
    reread = {name for name, size in sizes.items() if times[name] > 1 and size >= MIN_REREAD}
    found = defaultdict[str, list[WeightReads]](list)
    for branch in dict.fromkeys(homes.values()):
        names = [name for name, home in homes.items() if home == branch]
        found[branch] = [WeightReads(sizes[name], times[name]) for name in names if name in reread]
        found[branch].append(WeightReads(sum(sizes[name] for name in names if name not in reread), 1))
    return found


def _stored(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Return the name of the constant that a constant is made from, or of the tensor itself."""
    maker = makers.get(name)
    return _stored(maker.input[0], makers) if maker is not None and maker.op_type in FORMS else name
