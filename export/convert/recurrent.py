"""Writes recurrent layers straight from their Keras weights, in one of two forms that give the same.

The form ``lstm`` has ONNX's own operators, LSTM and GRU. In ``unrolled`` the steps are written out, which quantization
can reach into (``unrolled_steps``). The names of a layer's nodes begin with ``rnn/NAME/``; of a Bidirectional each
direction's begin with ``rnn/NAME-forward/`` and ``rnn/NAME-backward/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from .graph_writer import GraphWriter
from .recurrent_layer import HARD_SIGMOID, CellWeights, Float32, Kind, RecurrentLayer
from .unrolled_steps import write_steps

Form = Literal["lstm", "unrolled"]
Float64 = npt.NDArray[np.float64]
KERAS_TO_ONNX: dict[Kind, tuple[int, ...]] = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2)}  # i, f, c, o to i, o, f, c
STATES: dict[Kind, int] = {"LSTM": 2, "GRU": 1}  # h and c; h


def write_layer(
    writer: GraphWriter, layer: RecurrentLayer, value: str, *, form: Form, timesteps: int, batch: str
) -> str:
    """Add a layer to a graph, (T, N, I) -> (T, N, F), or (N, F) where it gives its last state alone.

    ``value`` names the layer's input, with the timesteps first, and ``batch`` a tensor that holds N, (1,) int64, which
    the form ``lstm`` takes. The name of the result is returned. In the form ``unrolled`` each step's state is the
    tensor ``rnn/DIRECTION/step_TT/hidden``, (1, N, H), numbered in the order in which they are made.
    """
    if form == "lstm":
        parts = _write_operator(writer, layer, value, batch)
    else:
        parts = [_write_unrolled(writer, layer, index, value, timesteps) for index in range(len(layer.cells))]
    if len(parts) > 1:
        return _merge(writer, layer, parts)
    if form == "lstm" and layer.backwards and layer.sequences:  # the operator gives them in the order of time
        order = writer.constant(f"rnn/{layer.name}/order", np.arange(timesteps, dtype=np.int64)[::-1])
        return writer.node("Gather", [parts[0], order], f"rnn/{layer.name}/reversed", axis=0)
    return parts[0]


def write_batch_major(writer: GraphWriter, layer: RecurrentLayer, value: str, *, form: Form, timesteps: int) -> str:
    """Add a layer to a graph as Keras has it, (N, T, I) -> (N, T, F), or (N, F) where it gives its last state alone.

    ``value`` names the layer's input, and the name of the result is returned. All that is added, nodes and constants,
    is named ``rnn/NAME/…``, or of one direction of a Bidirectional ``rnn/NAME-forward/…`` and ``rnn/NAME-backward/…``.
    The order of nodes in the graph is that in which they are added: ``value`` must have been made by then.
    """
    name = f"rnn/{layer.name}"
    batch = writer.node("Shape", [value], f"{name}/batch", start=0, end=1) if form == "lstm" else ""
    first = writer.node("Transpose", [value], f"{name}/time_major", perm=[1, 0, 2])
    result = write_layer(writer, layer, first, form=form, timesteps=timesteps, batch=batch)
    if not layer.sequences:
        return result
    return writer.node("Transpose", [result], f"{name}/batch_major", perm=[1, 0, 2])


def _write_unrolled(writer: GraphWriter, layer: RecurrentLayer, index: int, value: str, timesteps: int) -> str:
    name = f"rnn/{layer.directions[index]}"
    backwards = layer.backwards or index == 1
    hidden = write_steps(writer, name, layer.cells[index], value, timesteps, backwards=backwards)
    if not layer.sequences:
        axis = writer.constant(f"{name}/time", np.array([0], np.int64))
        return writer.node("Squeeze", [hidden[-1], axis], f"{name}/output")
    # beside a forward direction they come in the order of time, else in that in which they were made
    return writer.node("Concat", hidden[::-1] if index == 1 else hidden, f"{name}/output", axis=0)


def _merge(writer: GraphWriter, layer: RecurrentLayer, parts: list[str]) -> str:
    """Write how two directions become one, (T, N, H) or (N, H) each."""
    name = f"rnn/{layer.name}/merged"
    if layer.merge == "concat":
        return writer.node("Concat", parts, name, axis=-1)
    if layer.merge == "mul":
        return writer.node("Mul", parts, name)
    if layer.merge == "sum":
        return writer.node("Add", parts, name)
    total = writer.node("Add", parts, f"rnn/{layer.name}/total")
    return writer.node("Mul", [total, writer.constant(f"rnn/{layer.name}/half", np.array(0.5, np.float32))], name)


@dataclass(frozen=True, eq=False)
class Affine:
    """What batch normalization is at inference: ``x * scale + shift`` for each feature, both (H,) float64."""

    scale: Float64
    shift: Float64

    @classmethod
    def of_batch_norm(cls, layer: KerasModel) -> Affine:
        """Read a Keras BatchNormalization layer: gamma * (x - mean) / sqrt(variance + epsilon) + beta."""
        gamma, beta, mean, variance = (np.asarray(values, np.float64) for values in layer.get_weights())
        scale = gamma / np.sqrt(variance + layer.epsilon)
        return cls(scale, beta - mean * scale)

    def fold(self, kernel: npt.NDArray[Any], bias: npt.NDArray[Any]) -> tuple[Float64, Float64]:
        """Fold this step into the kernel (H, O) and bias (O,) of the Dense layer that takes its result."""
        return self.scale[:, None] * kernel, self.shift @ kernel.astype(np.float64) + bias


def write_recurrent(
    writer: GraphWriter, rnn: KerasModel, spec: ModelSpec, sequence: str, form: Form = "lstm"
) -> tuple[str, Affine | None]:
    """Write the recurrent branch, (N, T, S*S/T) -> (N, F), with ONNX's operators or, by ``form``, its steps unrolled.

    It returns the name of the branch's result (N, F), and the affine step that whoever takes it has to fold in: batch
    normalization with no Dense layer of the branch's own behind it. ``sequence`` is the name of the graph's input.
    """
    value = writer.node("Transpose", [sequence], "rnn/time_major", perm=[1, 0, 2])  # both forms want (T, N, I)
    # N is read off the graph's input: a second taker of an LSTM's result would move where ONNX Runtime rounds to FP16
    batch = writer.node("Shape", [sequence], "rnn/batch", start=0, end=1) if form == "lstm" else ""
    for number in range(1, spec.rnn_layers + 1):
        layer = RecurrentLayer.of(rnn.get_layer(f"{spec.cell}_{number}"))
        value = write_layer(writer, layer, value, form=form, timesteps=spec.timesteps, batch=batch)
    names = {layer.name for layer in rnn.layers}
    affine = Affine.of_batch_norm(rnn.get_layer("rnn_batch_norm")) if "rnn_batch_norm" in names else None
    if "projection" not in names:
        return value, affine
    kernel, bias = rnn.get_layer("projection").get_weights()
    if affine is not None:
        kernel, bias = affine.fold(kernel, bias)
    return writer.dense(value, kernel, bias, "rnn/projection"), None


def _write_operator(writer: GraphWriter, layer: RecurrentLayer, value: str, batch: str) -> list[str]:
    """Write an LSTM or GRU operator; return each direction's result, (T, N, H), or its last state, (N, H).

    One operator does both directions: TensorRT makes one loop of it, and two of two.
    """
    name, cells, last = f"rnn/{layer.name}", layer.cells, not layer.sequences
    kind, units = cells[0].kind, cells[0].units
    initial = _write_zeros(writer, name, batch, units, len(cells))
    inputs = [
        value,
        writer.constant(f"{name}/W", _onnx_gates(kind, [cell.kernel for cell in cells])),
        writer.constant(f"{name}/R", _onnx_gates(kind, [cell.recurrent for cell in cells])),
        writer.constant(f"{name}/B", np.concatenate([_biases(cell) for cell in cells])),
        "",  # sequence_lens: every sequence has all timesteps
        *[initial] * STATES[kind],
    ]
    outputs = ["", f"{name}/hidden"] if last else [f"{name}/hidden"]
    hidden = writer.node(kind, inputs, outputs, hidden_size=units, **_options(layer))
    # Y is (T, directions, N, H), Y_h (directions, N, H)
    axis = writer.constant(f"{name}/direction", np.array([0 if last else 1], np.int64))
    if len(cells) == 1:
        return [writer.node("Squeeze", [hidden, axis], f"{name}/output")]
    parts = [f"rnn/{direction}/hidden" for direction in layer.directions]
    sizes = writer.constant(f"{name}/directions", np.ones(len(parts), np.int64))
    writer.node("Split", [hidden, sizes], parts, axis=0 if last else 1)
    return [
        writer.node("Squeeze", [part, axis], f"rnn/{direction}/output")
        for part, direction in zip(parts, layer.directions, strict=True)
    ]


def _options(layer: RecurrentLayer) -> dict[str, Any]:
    """Return an operator's attributes that differ from their defaults."""
    cell, count = layer.cells[0], len(layer.cells)
    options: dict[str, Any] = {}
    if count > 1:
        options["direction"] = "bidirectional"
    elif layer.backwards:
        options["direction"] = "reverse"
    if cell.kind == "GRU" and cell.reset_after:
        options["linear_before_reset"] = 1
    if cell.hard:
        options["activations"] = ["HardSigmoid", *["Tanh"] * STATES[cell.kind]] * count
        options["activation_alpha"] = [HARD_SIGMOID["alpha"]] * count
        options["activation_beta"] = [HARD_SIGMOID["beta"]] * count
    return options


def _write_zeros(writer: GraphWriter, name: str, batch: str, units: int, directions: int) -> str:
    """Write the states before the first step, (1 or 2, N, H), although ONNX takes zeros where it is given none.

    TensorRT's parser then makes the zeros itself, up to 10.6 at least in FP32, which a strongly typed network refuses
    beside FP16 weights. As tensors of the graph they are lowered with it.
    """
    one = writer.constant(f"{name}/{'one' if directions == 1 else 'two'}", np.array([directions], np.int64))
    width = writer.constant(f"{name}/units", np.array([units], np.int64))
    shape = writer.node("Concat", [one, batch, width], f"{name}/state_shape", axis=0)
    zero = writer.constant(f"{name}/zero", np.zeros((1, 1, 1), np.float32))
    return writer.node("Expand", [zero, shape], f"{name}/initial")


def _biases(cell: CellWeights) -> Float32:
    """Return a direction's biases as ONNX has them, those of the input before those of the hidden state: (1, 2*G*H)."""
    other = np.zeros_like(cell.bias) if cell.recurrent_bias is None else cell.recurrent_bias
    return np.concatenate([_onnx_gates(cell.kind, [item[None]])[:, :, 0] for item in (cell.bias, other)], axis=1)


def _onnx_gates(kind: Kind, directions: list[Float32]) -> Float32:
    """Turn Keras's (I, G*H) of each direction into ONNX's (directions, G*H, I), in the order of its gates."""
    order = KERAS_TO_ONNX[kind]
    gates = [np.split(values, len(order), axis=1) for values in directions]
    joined = np.concatenate([own[gate].T for own in gates for gate in order])
    return joined.reshape(len(directions), -1, joined.shape[1])
