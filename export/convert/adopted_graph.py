"""Writes a model that somebody else trained as one graph, from the image to the scores.

tf2onnx converts the network with every recurrent layer cut out of it, as it would write loops that no quantizer reaches
into; what stood between them comes out in one graph, and the recurrent layers are written from their weights:

    image ──► cnn/… ──► rnn/gru_1/… ──► cnn/… ──► rnn/lstm_1/… ──► cnn/… ──► logits ──► probabilities

The last Dense layer is the head, as in a hybrid: it stays in FP32 whatever the rest becomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf
from onnx import numpy_helper

from ...runtime.errors import ConversionError
from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from ..artifacts import ModelParts
from .from_keras import write_function
from .graph_reading import image_layers, producers, quantizable
from .graph_writer import GraphWriter
from .recurrent import Form, write_batch_major
from .recurrent_layer import RecurrentLayer, is_recurrent

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CutLayer:
    """One call of a recurrent layer: what it takes, (N, T, I), and gives, (N, T, F) or (N, F), by the graph's names."""

    layer: RecurrentLayer
    taken: str
    given: str
    timesteps: int


@dataclass(frozen=True, eq=False)
class AdoptedGraph:
    """The graph without its recurrent layers, the name of the logits in it, and the layers that are missing."""

    rest: onnx.GraphProto
    logits: str
    cut: tuple[CutLayer, ...]

    @classmethod
    def of(cls, model: KerasModel, spec: ModelSpec, opset: int) -> AdoptedGraph:
        """Convert a model whose layer ``logits`` gives the scores before their softmax, (N, C)."""
        part = keras.Model(model.input, model.get_layer("logits").output, name="cnn")
        calls = _recurrent_calls(part, spec)
        given = [f"recurrent_{number}" for number in range(len(calls))]

        def function(image: Any, *states: Any) -> list[Any]:
            taken: list[Any] = []
            left = iter(states)

            def replaced(_: KerasModel, sequence: Any) -> Any:
                taken.append(sequence)
                return next(left)

            with _cut(part, replaced):
                logits = part(image, training=False)
            return [logits, *taken]

        shapes = {"image": (None, *spec.image_shape)} | {
            name: call.given for name, call in zip(given, calls, strict=True)
        }
        writer = GraphWriter("cnn")
        logits, *taken = write_function(writer, function, shapes, opset)
        cut = (
            CutLayer(call.read(calls[:number]), taken[number], given[number], call.timesteps)
            for number, call in enumerate(calls)
        )
        return cls(writer.graph, logits, tuple(cut))

    def write(self, writer: GraphWriter, form: Form) -> None:
        """Add the whole model to a graph with the input ``image``, its recurrent layers in one form."""
        graph = writer.graph
        graph.node.extend(self.rest.node)
        graph.initializer.extend(self.rest.initializer)
        states = {
            cut.given: write_batch_major(writer, cut.layer, cut.taken, form=form, timesteps=cut.timesteps)
            for cut in self.cut
        }
        for node in graph.node:
            node.input[:] = [states.get(name, name) for name in node.input]
        write_head(writer, states.get(self.logits, self.logits))
        nodes = needed(graph, ["probabilities"])
        taken = {name for node in nodes for name in node.input}
        weights = [tensor for tensor in graph.initializer if tensor.name in taken]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(weights)

    @property
    def parts(self) -> ModelParts:
        """What the model is made of."""
        writer = GraphWriter("parts")
        self.write(writer, "lstm")
        others = quantizable(writer.model)
        cells = [(cell, cut.timesteps) for cut in self.cut for cell in cut.layer.cells]
        steps = sum(timesteps for _, timesteps in cells)
        weights = sum(cell.products * timesteps for cell, timesteps in cells)
        units = max((cell.units for cell, _ in cells), default=0)
        # where nothing else would be in INT8 on a CPU, the recurrent layers are, whatever that costs
        step = weights / steps if others.keys() - image_layers(writer.model) and steps else None
        return ModelParts(bool(cells), bool(others), units, step, steps)


@dataclass(frozen=True)
class _Call:
    layer: KerasModel
    given: tuple[int | None, ...]
    timesteps: int

    def read(self, before: Sequence[_Call]) -> RecurrentLayer:
        """Read the layer; each call of one that the model shares has a name of its own."""
        times = sum(other.layer is self.layer for other in before)
        return RecurrentLayer.of(self.layer, f"{self.layer.name}_call_{times + 1}" if times else None)


def _recurrent_calls(model: KerasModel, spec: ModelSpec) -> list[_Call]:
    """Find each call of a recurrent layer, in order, with the shape that it gives."""
    calls: list[_Call] = []

    def replaced(layer: KerasModel, sequence: Any) -> Any:
        given = tuple(layer.compute_output_shape(tuple(sequence.shape)))
        if sequence.shape[1] is None:
            raise ConversionError(f"{layer.name}: expected a fixed number of timesteps, found a sequence of any length")
        calls.append(_Call(layer, given, int(sequence.shape[1])))
        return tf.zeros([tf.shape(sequence)[0], *given[1:]])

    with _cut(model, replaced):
        run = tf.function(lambda image: model(image, training=False))
        run.get_concrete_function(tf.TensorSpec((None, *spec.image_shape), tf.float32))
    return calls


@contextmanager
def _cut(model: KerasModel, replaced: Any) -> Iterator[None]:
    """Have ``replaced(layer, sequence)`` called in place of each recurrent layer, for as long as this is open."""

    def stand_in(layer: KerasModel) -> Any:
        def call(sequences: Any, initial_state: Any = None, mask: Any = None, **_: Any) -> Any:
            if mask is not None or initial_state is not None:
                found = "a mask" if mask is not None else "a state from another layer"
                raise ConversionError(
                    f"{layer.name}: expected a recurrent layer that takes a sequence alone, found {found}: build the "
                    "model without it"
                )
            return replaced(layer, sequences)

        return call

    layers = [layer for layer in _walk(model) if is_recurrent(layer)]
    for layer in layers:
        layer.call = stand_in(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _walk(model: KerasModel) -> Iterator[KerasModel]:
    """Yield a model's layers and those of models inside it; what a recurrent layer is made of is its own."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _walk(layer)


def write_head(writer: GraphWriter, logits: str) -> None:
    """Turn the nodes that make the scores into the head: the last Dense layer as one product, and the softmax.

    A Dense layer of one score, and the one that makes two of it, come out as one product too.
    """
    weights = {tensor.name: tensor for tensor in writer.graph.initializer}
    makers = producers(writer.graph.node)
    value, kernel, bias = logits, None, np.zeros(1)
    while kernel is None or len(kernel) == 1:
        step = _Step.read(makers.get(value), weights)
        if step is None:
            break
        value = step.value
        if kernel is None:
            kernel, bias = step.kernel, bias + step.bias
        else:
            bias = bias + np.broadcast_to(step.bias, kernel.shape[:1]) @ kernel
            kernel = kernel if step.kernel is None else step.kernel @ kernel
    if kernel is None:
        writer.node("Identity", [logits], "logits")
    else:
        writer.dense(value, kernel, np.broadcast_to(bias, kernel.shape[1:]), "logits")
    writer.node("Softmax", ["logits"], "probabilities", axis=-1)


@dataclass(frozen=True, eq=False)
class _Step:
    """A node that is ``value @ kernel + bias``, of which either may be missing."""

    value: str
    kernel: Float64 | None = None
    bias: Float64 = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def read(cls, node: onnx.NodeProto | None, weights: Mapping[str, onnx.TensorProto]) -> _Step | None:
        """Read a node; None where it is something else."""
        if node is None or node.input[0] in weights or any(name not in weights for name in node.input[1:]):
            return None
        constants = [np.asarray(numpy_helper.to_array(weights[name]), np.float64) for name in node.input[1:]]
        if node.op_type == "Identity":
            return cls(node.input[0])
        if node.op_type == "MatMul" and constants[0].ndim == 2:
            return cls(node.input[0], constants[0])
        if node.op_type == "Gemm" and not node.attribute:
            return cls(node.input[0], *constants)
        if node.op_type == "Add" and constants[0].ndim == 1:
            return cls(node.input[0], bias=constants[0])
        return None


def needed(graph: onnx.GraphProto, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """List the nodes that the outputs are made of, each behind those that make what it takes."""
    makers = producers(graph.node)
    done: set[str] = set()
    ordered: list[onnx.NodeProto] = []
    stack = [makers[name] for name in reversed(outputs)]
    while stack:
        node = stack[-1]
        missing = [makers[name] for name in node.input if name in makers and makers[name].name not in done]
        if missing:
            stack += reversed(missing)
            continue
        stack.pop()
        if node.name not in done:
            done.add(node.name)
            ordered.append(node)
    return ordered
