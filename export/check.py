"""Is the graph the one that was declared? Looked at by itself, not trusted from how it was written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import onnx

from ..runtime.errors import ConversionError
from ..runtime.spec import ModelSpec
from .graph import IR_VERSION, OPSET
from .writer import BATCH

__all__ = ["check_graph", "count_operators"]

CONVOLUTIONS = {"xception": 74, "digits": 3}  # Xception: 34 separable ones (two each), 2 of the entry, 4 shortcuts
MAX_KEPT = 1024  # values: shapes, axes and other constants that shape inference looks into
UNWANTED = ("Loop", "Scan", "If", "BatchNormalization")

Shape = tuple[int | str, ...]


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs, sub-graphs included, by name."""
    return dict(sorted(Counter(node.op_type for node in _nodes(model.graph)).items()))


def check_graph(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Compare a graph with what its spec declares.

    Raises:
        ConversionError: other inputs, outputs, shapes or types, another opset or IR version, a foreign operator
            domain, another number of LSTM or convolution operators, a loop or batch normalization left, or refused by
            onnx's own checker. The message names it.
    """
    faults = [*_interface_faults(model, spec), *_version_faults(model), *_operator_faults(model, spec)]
    if faults:
        raise ConversionError("the ONNX graph is not the one that was declared: " + "; ".join(faults))
    try:
        onnx.checker.check_model(_skeleton(model), full_check=True)  # infers shapes too, and compares the declared ones
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"onnx's checker refused the graph: {error}") from error


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights as inputs of their shape: the checker would copy 400 MB of them three times."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > MAX_KEPT:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
        else:
            graph.initializer.append(tensor)
    return skeleton


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


def _version_faults(model: onnx.ModelProto) -> Iterable[str]:
    opsets = {item.domain: item.version for item in model.opset_import}
    if opsets != {"": OPSET}:
        yield f"operator sets: expected the default one, version {OPSET}, found {opsets}"
    if model.ir_version != IR_VERSION:
        yield f"IR version: expected {IR_VERSION}, found {model.ir_version}"
    foreign = {f"{node.domain}.{node.op_type}" for node in _nodes(model.graph) if node.domain not in ("", "ai.onnx")}
    if foreign:
        yield f"operators of foreign domains: {', '.join(sorted(foreign))}"


def _operator_faults(model: onnx.ModelProto, spec: ModelSpec) -> Iterable[str]:
    counts = count_operators(model)
    expected = {
        "LSTM": spec.rnn_layers if spec.uses_rnn else 0,
        "Conv": CONVOLUTIONS[spec.backbone] if spec.uses_cnn else 0,
        **dict.fromkeys(UNWANTED, 0),
    }
    for operator, count in expected.items():
        if counts.get(operator, 0) != count:
            yield f"{operator}: expected {count}, found {counts.get(operator, 0)}"


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)
