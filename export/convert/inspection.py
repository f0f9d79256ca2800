"""Looks at a finished graph, not at how it was written: is it the one declared, and in which precision does it run?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from ...runtime.errors import ConversionError
from ...runtime.manifest import RecurrentForm, Target
from ...runtime.spec import ModelSpec
from ...train.backbones import BACKBONES
from .fp32_graph import IR_VERSION, OPSET, QUANTIZED_IR_VERSION, QUANTIZED_OPSET
from .graph_reading import (
    CONTRIBUTED,
    IN_BLOCKS,
    RECURRENT_OPERATORS,
    branch_of,
    is_affine,
    is_pointwise,
    producers,
    skeleton,
    tensor_types,
)
from .graph_writer import BATCH

STEP_HIDDEN = re.compile(r"rnn/[^/]+/step_\d+/hidden")
GRU_INPUTS = {"X": 0, "W": 1, "R": 2, "B": 3, "initial_h": 5}  # 4, the lengths, is left out
RECURRENT_INPUTS = {"LSTM": {**GRU_INPUTS, "initial_c": 6}, "GRU": GRU_INPUTS}
STEPS = "unrolled steps"
NO_TYPE = "none"
UNWANTED = {
    "Loop": "tf2onnx writes one for a layer with a fixed batch or a hard_sigmoid gate",
    "Scan": "a recurrent layer was not written by hybrid-edge",
    "If": "a layer behaves otherwise in training than in inference, and was exported in training",
    "BatchNormalization": "it was not written as a convolution, as those of images are",
}

Shape = tuple[int | str, ...]
TYPE_NAMES: dict[int, str] = {int(TensorProto.FLOAT): "FP32", int(TensorProto.FLOAT16): "FP16"}
OPERATION_KINDS = {
    "Conv": "convolutions",
    "ConvTranspose": "convolutions",
    "MatMul": "matrix products",
    "Gemm": "matrix products",
}
OPERATION_KINDS |= {name: name for name in RECURRENT_OPERATORS}
BLOCK_WEIGHTS = "with 8-bit weights"
PRECISION_ORDER = ("INT8", BLOCK_WEIGHTS, "FP16", "FP32")


@dataclass(frozen=True)
class Declaration:
    """What a graph is to be: the form of its recurrent branch, and whether layers run in INT8, for which target."""

    recurrent: RecurrentForm = "lstm"
    quantized: bool = False
    target: Target = "tensorrt"

    @property
    def opsets(self) -> dict[str, int]:
        """The version of each operator domain, ONNX Runtime's own among them where its CPU provider takes integers."""
        if self.quantized and self.target == "cpu":
            return {"": OPSET, CONTRIBUTED: 1}
        return {"": QUANTIZED_OPSET if self.quantized else OPSET}

    @property
    def ir_version(self) -> int:
        """The version of the ONNX file format."""
        return QUANTIZED_IR_VERSION if self.quantized and self.target != "cpu" else IR_VERSION


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Count how often each operator occurs, sub-graphs included, by its name."""
    return dict(sorted(Counter(node.op_type for node in _nodes(model.graph)).items()))


def count_steps(model: onnx.ModelProto) -> int:
    """Count the timesteps that are written out, all recurrent layers and their directions together."""
    return sum(bool(STEP_HIDDEN.fullmatch(node.name)) for node in model.graph.node)


def check_graph(model: onnx.ModelProto, spec: ModelSpec, declared: Declaration | None = None) -> None:
    """Compare a graph with what it is declared to be, by default in FP32 and not unrolled, and run onnx's checker.

    It raises ConversionError, which names what differs: inputs, outputs, types, versions, domains, the numbers of
    LSTMs, GRUs, unrolled steps and convolutions, a loop (with its cause) or batch normalization that is left, or states
    that an LSTM or a GRU lacks.
    """
    declared = declared or Declaration("lstm" if spec.uses_rnn else "none")
    _refuse(
        *_interface_faults(model, spec), *_version_faults(model, declared), *_operator_faults(model, spec, declared)
    )
    try:
        _refuse(*_recurrent_faults(model))
        onnx.checker.check_model(skeleton(model), full_check=True)  # infers shapes too, and compares the declared ones
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"onnx's checker refused the graph: {error}") from error


def _refuse(*faults: str) -> None:
    if faults:
        raise ConversionError("the ONNX graph is not the one that was declared: " + "; ".join(faults))


def _interface_faults(model: onnx.ModelProto, spec: ModelSpec) -> Iterable[str]:
    inputs: dict[str, Shape] = {name: (BATCH, *shape) for name, shape in spec.inputs.items()}
    outputs: dict[str, Shape] = dict.fromkeys(("logits", "probabilities"), (BATCH, spec.num_classes))
    yield from _value_faults("inputs", model.graph.input, inputs)
    yield from _value_faults("outputs", model.graph.output, outputs)


def _value_faults(kind: str, values: Iterable[onnx.ValueInfoProto], expected: Mapping[str, Shape]) -> Iterable[str]:
    found = {value.name: _shape(value) for value in values}
    if found != expected:
        yield f"{kind}: expected {dict(expected)}, found {found}"
    for value in values:
        element = value.type.tensor_type.elem_type
        if element != onnx.TensorProto.FLOAT:
            yield f"{value.name}: expected FLOAT, found {onnx.TensorProto.DataType.Name(element)}"


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _version_faults(model: onnx.ModelProto, declared: Declaration) -> Iterable[str]:
    opsets = {item.domain: item.version for item in model.opset_import}
    if opsets != {domain: version for domain, version in declared.opsets.items() if not domain or domain in opsets}:
        yield f"operator sets: expected {declared.opsets}, found {opsets}"
    if model.ir_version != declared.ir_version:
        yield f"IR version: expected {declared.ir_version}, found {model.ir_version}"
    known = ("ai.onnx", *declared.opsets)
    foreign = {f"{node.domain}.{node.op_type}" for node in _nodes(model.graph) if node.domain not in known}
    if foreign:
        yield f"operators of foreign domains: {', '.join(sorted(foreign))}"


def _operator_faults(model: onnx.ModelProto, spec: ModelSpec, declared: Declaration) -> Iterable[str]:
    counts = {**count_operators(model), STEPS: count_steps(model)}
    counts["Conv"] = sum(_kind(node) == OPERATION_KINDS["Conv"] for node in model.graph.node)
    expected = {**dict.fromkeys(UNWANTED, 0), **_recurrent_counts(spec, declared.recurrent)}
    if not spec.adopted:
        expected["Conv"] = BACKBONES[spec.backbone].convolutions if spec.uses_cnn else 0
    for operator, count in expected.items():
        if counts.get(operator, 0) != count:
            cause = f" ({UNWANTED[operator]})" if operator in UNWANTED else ""
            yield f"{operator}: expected {count}, found {counts.get(operator, 0)}{cause}"


def _recurrent_counts(spec: ModelSpec, form: RecurrentForm) -> dict[str, int]:
    """Count the operators and steps that a form has; of an adopted model only those that it may not have."""
    if spec.adopted:
        others = (() if form == "lstm" else RECURRENT_OPERATORS) + (() if form == "unrolled" else (STEPS,))
        return dict.fromkeys(others, 0)
    layers = spec.rnn_layers if spec.uses_rnn else 0
    own, directions = "GRU" if spec.cell == "gru" else "LSTM", 2 if spec.cell == "bilstm" else 1
    counts = {name: layers if form == "lstm" and name == own else 0 for name in RECURRENT_OPERATORS}
    return {**counts, STEPS: directions * layers * spec.timesteps if form == "unrolled" else 0}


def _recurrent_faults(model: onnx.ModelProto) -> Iterable[str]:
    """Name LSTMs and GRUs without states of their weights' type: a parser makes those, TensorRT 10.3's wrongly."""
    types = tensor_types(model)
    for node in model.graph.node:
        if node.op_type in RECURRENT_OPERATORS:
            names, inputs = dict(enumerate(node.input)), RECURRENT_INPUTS[node.op_type]
            found = {item: _type_name(types.get(names.get(index, ""))) for item, index in inputs.items()}
            if len(set(found.values())) > 1 or NO_TYPE in found.values():
                listed = ", ".join(f"{item} {kind}" for item, kind in found.items())
                yield f"{node.name}: expected inputs of one type, found {listed}"


def _type_name(kind: int | None) -> str:
    return str(onnx.TensorProto.DataType.Name(kind)) if kind else NO_TYPE


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def operations(model: onnx.ModelProto) -> dict[str, str]:
    """Return the precision of each operation that has weights, by node name: ``INT8``, ``FP16`` or ``FP32``.

    An operation is INT8 if both its inputs are integers: an integer operator, or one with DequantizeLinear on both.
    That of a product of floats with weights in blocks is ``with 8-bit weights``.
    """
    makers = producers(model.graph.node)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    if any(_kind(node) and node.input[1] not in types for node in model.graph.node):  # of two activations
        types = tensor_types(model)
    return {node.name: _precision(node, makers, types) for node in model.graph.node if _kind(node)}


def describe(model: onnx.ModelProto) -> tuple[str, ...]:
    """Describe each branch, and the form of the recurrent one, in lines for the report.

    They are such as ``CNN: 74/74 convolutions INT8`` and ``recurrent form: 2 LSTM, 0 Loop, 0 unrolled steps``.
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
        operators = [name for name in RECURRENT_OPERATORS if name in counts] or ["LSTM"]
        forms = [f"{counts.get(name, 0)} {name}" for name in (*operators, "Loop")]
        lines.append(f"recurrent form: {', '.join(forms)}, {count_steps(model)} {STEPS}")
    return tuple(lines)


def _counts(names: Iterable[str], found: Mapping[str, str], kinds: Mapping[str, str]) -> Iterable[str]:
    pairs = Counter((kinds[name], found[name]) for name in names)
    for kind in dict.fromkeys(OPERATION_KINDS.values()):
        total = sum(count for (of, _), count in pairs.items() if of == kind)
        for precision in PRECISION_ORDER:
            if count := pairs[kind, precision]:
                yield f"{count}/{total} {kind} {precision}"


def _kind(node: onnx.NodeProto) -> str:
    if node.domain == CONTRIBUTED:
        return OPERATION_KINDS["Conv" if is_pointwise(node) else "MatMul"]
    return "" if is_affine(node) else OPERATION_KINDS.get(node.op_type, "")


def _precision(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], types: Mapping[str, int]) -> str:
    if node.domain == CONTRIBUTED:
        return BLOCK_WEIGHTS if node.op_type == IN_BLOCKS else "INT8"
    both = [makers.get(name) for name in node.input[:2]]
    if all(maker is not None and maker.op_type == "DequantizeLinear" for maker in both):
        return "INT8"
    # behind ONNX Runtime's own integer operators, which give floats, onnx infers no types
    return TYPE_NAMES[types.get(node.input[1], int(TensorProto.FLOAT))]
