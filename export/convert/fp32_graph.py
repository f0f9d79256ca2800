"""Builds the whole model as one ONNX graph: the branches that it has, what joins them, and the head."""

from __future__ import annotations

import onnx

from ...runtime.errors import ConversionError
from ...runtime.spec import Merge, ModelSpec
from ...train.model import JOINS, KerasModel
from ..artifacts import ModelParts
from .adopted_graph import AdoptedGraph
from .from_keras import write_cnn
from .graph_writer import GraphWriter
from .recurrent import Affine, Form, write_recurrent

OPSET = 17  # device runtimes refuse the newest versions that onnx would write (opset 28 and IR 14)
IR_VERSION = 8
QUANTIZED_OPSET = 19  # QuantizeLinear takes FP16 from opset 19 on, whose files are IR 9
QUANTIZED_IR_VERSION = 9
MAX_BYTES = 2**31 - 1  # protobuf's limit for one message
JOIN_OPERATORS: dict[Merge, str] = {"multiply": "Mul", "add": "Add", "concatenate": "Concat"}
GRAPH_OVERHEAD = 2**22  # bytes for nodes, names and shapes beside the weights; Xception's take 40 KiB


class GraphBuilder:
    """Writes a Keras model as ONNX graphs that differ in the recurrent layers' form; the rest is converted once."""

    def __init__(self, model: KerasModel, spec: ModelSpec) -> None:
        _check_size(model)
        self._model = model
        self._spec = spec
        self._branch = GraphWriter("cnn")
        self._features = write_cnn(self._branch, model.get_layer("cnn"), spec, OPSET) if spec.uses_cnn else None
        self._adopted = AdoptedGraph.of(model, spec, OPSET) if spec.adopted else None

    @property
    def parts(self) -> ModelParts:
        """What the model is made of."""
        return self._adopted.parts if self._adopted else ModelParts.of_branches(self._spec)

    def build(self, form: Form = "lstm") -> onnx.ModelProto:
        """Build the graph with one form of the recurrent branch, unchecked (see ``inspection.check_graph``).

        Its inputs are ``image`` (N, S, S, 3) and ``sequence`` (N, T, S*S/T), of which those that the branches use, its
        outputs ``logits`` and ``probabilities`` (N, C); all are float32; opset 17, IR 8.
        """
        spec = self._spec
        writer = GraphWriter("hybrid_edge")
        for name, shape in spec.inputs.items():
            writer.input(name, shape)
        if self._adopted is not None:
            self._adopted.write(writer, form)
        else:
            self._write_branches(writer, form)
        for name in ("logits", "probabilities"):
            writer.output(name, (spec.num_classes,))
        set_versions(writer.model, OPSET, IR_VERSION)
        return writer.model

    def _write_branches(self, writer: GraphWriter, form: Form) -> None:
        spec, model = self._spec, self._model
        writer.graph.node.extend(self._branch.graph.node)
        writer.graph.initializer.extend(self._branch.graph.initializer)
        rnn, affine = (
            write_recurrent(writer, model.get_layer("rnn"), spec, "sequence", form) if spec.uses_rnn else (None, None)
        )
        _write_head(writer, model, spec, self._features, rnn, affine)


def set_versions(model: onnx.ModelProto, opset: int, ir_version: int) -> None:
    """Declare the version of the default operator domain, in place of whatever was declared, and of the file format."""
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", opset))
    model.ir_version = ir_version
    model.producer_name = "hybrid-edge"


def serialize(model: onnx.ModelProto) -> bytes:
    """Serialize a graph to the bytes of an ONNX file; raise ConversionError where it exceeds one file's limit, 2 GB."""
    try:
        data = bytes(model.SerializeToString())
    except Exception as error:
        # protobuf's error types differ between its implementations
        raise ConversionError(f"the ONNX graph can't be written as one file: {error}") from error
    if len(data) > MAX_BYTES:
        raise ConversionError(f"expected an ONNX graph of at most {MAX_BYTES} bytes, found {len(data)}")
    return data


def _check_size(model: KerasModel) -> None:
    expected = 4 * int(model.count_params()) + GRAPH_OVERHEAD
    if expected > MAX_BYTES:
        raise ConversionError(
            f"expected a model whose weights fit into one ONNX file of {MAX_BYTES / 1e6:.0f} MB, found "
            f"{model.count_params()} parameters, {expected / 1e6:.0f} MB: train it with fewer --rnn-units or layers"
        )


def _write_head(
    writer: GraphWriter,
    model: KerasModel,
    spec: ModelSpec,
    cnn: str | None,
    rnn: str | None,
    affine: Affine | None,
) -> None:
    kernel, bias = model.get_layer("logits").get_weights()
    if cnn is not None and rnn is not None:
        branches = [cnn, rnn if affine is None else _write_affine(writer, rnn, affine)]
        axis = {"axis": 1} if spec.merge == "concatenate" else {}
        joined = writer.node(JOIN_OPERATORS[spec.merge], branches, JOINS[spec.merge][0], **axis)
    else:
        joined = cnn or rnn or ""
        if affine is not None:
            kernel, bias = affine.fold(kernel, bias)
    writer.dense(joined, kernel, bias, "logits")
    writer.node("Softmax", ["logits"], "probabilities", axis=-1)


def _write_affine(writer: GraphWriter, value: str, affine: Affine) -> str:
    """Write batch normalization as a step of its own before the branches join: no shift passes through a product."""
    scale = writer.constant("rnn/batch_norm/scale", affine.scale.astype("float32"))
    shift = writer.constant("rnn/batch_norm/shift", affine.shift.astype("float32"))
    scaled = writer.node("Mul", [value, scale], "rnn/batch_norm/scaled")
    return writer.node("Add", [scaled, shift], "rnn/batch_norm/output")
