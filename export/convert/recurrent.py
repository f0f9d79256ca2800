"""Writes the recurrent branch straight from the Keras weights, in one of two forms that give the same.

The form ``lstm`` has ONNX LSTM operators. In ``unrolled`` the input's projection is hoisted out of the recurrence into
one matrix product, and a layer's steps are written out one after the other, which quantization can reach into:

    x (T, N, I) ──► MatMul W ──► Add b ──► Split
      ┌───────────────────────┬──────────────┴───────────┐
      ▼ step 0                ▼ step 1                   ▼ step 2
    gates                    Add ──► gates              Add ──► gates ...
      ├─► h_0 ──► MatMul R ───┘        ├─► h_1 ─► MatMul R ┘      ├─► h_2
      └─► c_0 ─────────────────────────┴─► c_1 ───────────────────┴─► c_2

    projected = x W + b                           (T, N, 4H), one product for all timesteps
    gates_t   = projected_t + h_{t-1} R           (1, N, 4H)
    c_t       = f c_{t-1} + i g,  h_t = o tanh(c_t)

with i, f, o = sigmoid and g = tanh of their quarters (Hochreiter & Schmidhuber 1997, Gers et al. 2000; as in Keras).
R is one initializer that every step refers to. The first step has no product: h and c are zero before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from .graph_writer import GraphWriter

Float32 = npt.NDArray[np.float32]

KERAS_TO_UNROLLED = (0, 1, 3, 2)  # gates: Keras i, f, c, o; here i, f, o, c, so that one Sigmoid takes three of them
Form = Literal["lstm", "unrolled"]
Float64 = npt.NDArray[np.float64]
KERAS_TO_ONNX = (0, 3, 1, 2)  # gates: Keras i, f, c, o; ONNX i, o, f, c


def write_unrolled(writer: GraphWriter, weights: LstmWeights, value: str, timesteps: int, *, last: bool) -> str:
    """Add one layer to a graph, which takes ``value`` (T, N, I); return the name of the hidden states, (T, N, H).

    With ``last`` it is the name of the last one, (N, H). Either way each step's state is the tensor
    ``rnn/LAYER/step_TT/hidden``, (1, N, H).
    """
    name = f"rnn/{weights.name}"
    kernel = writer.constant(f"{name}/W", _gates(weights.kernel))
    product = writer.node("MatMul", [value, kernel], f"{name}/product")
    projected = writer.node(
        "Add", [product, writer.constant(f"{name}/b", _gates(weights.bias[None])[0])], f"{name}/projected"
    )
    parts = [f"{name}/step_{step:02}/input" for step in range(timesteps)]
    sizes = writer.constant(f"{name}/steps", np.ones(timesteps, np.int64))
    writer.node("Split", [projected, sizes], parts, axis=0)
    layer = _Layer(writer, name, weights)
    hidden = [layer.step(f"{name}/step_{step:02}", part) for step, part in enumerate(parts)]
    if last:
        axis = writer.constant(f"{name}/time", np.array([0], np.int64))
        return writer.node("Squeeze", [hidden[-1], axis], f"{name}/output")
    return writer.node("Concat", hidden, f"{name}/output", axis=0)


class _Layer:
    """Writes a layer step after step, and keeps the names of the states between them."""

    def __init__(self, writer: GraphWriter, name: str, weights: LstmWeights) -> None:
        self._writer = writer
        self._recurrent = writer.constant(f"{name}/R", _gates(weights.recurrent))
        units = weights.units
        self._halves = writer.constant(f"{name}/sigmoids_and_candidate", np.array([3 * units, units], np.int64))
        self._thirds = writer.constant(f"{name}/input_forget_output", np.array([units] * 3, np.int64))
        self._hidden = ""
        self._cell = ""

    def step(self, name: str, projected: str) -> str:
        """Return the name of the hidden state, (1, N, H)."""
        node = self._writer.node
        gates = projected
        if self._hidden:
            product = node("MatMul", [self._hidden, self._recurrent], f"{name}/recurrent")
            gates = node("Add", [product, projected], f"{name}/gates")
        node("Split", [gates, self._halves], [f"{name}/open", f"{name}/raw"], axis=2)
        node("Sigmoid", [f"{name}/open"], f"{name}/sigmoids")
        node("Split", [f"{name}/sigmoids", self._thirds], [f"{name}/i", f"{name}/f", f"{name}/o"], axis=2)
        node("Tanh", [f"{name}/raw"], f"{name}/candidate")
        cell = node("Mul", [f"{name}/i", f"{name}/candidate"], f"{name}/new")
        if self._cell:
            kept = node("Mul", [f"{name}/f", self._cell], f"{name}/kept")
            cell = node("Add", [kept, cell], f"{name}/cell")
        self._cell = cell
        squashed = node("Tanh", [cell], f"{name}/squashed")
        self._hidden = node("Mul", [f"{name}/o", squashed], f"{name}/hidden")
        return self._hidden


def _gates(values: Float32) -> Float32:
    """Reorder Keras's (I, 4H) from gates i, f, c, o to gates i, f, o, c."""
    quarters = np.split(values, 4, axis=1)
    return np.concatenate([quarters[gate] for gate in KERAS_TO_UNROLLED], axis=1)


@dataclass(frozen=True, eq=False)
class LstmWeights:
    """One Keras LSTM's ``kernel`` (I, 4H), ``recurrent`` (H, 4H) and ``bias`` (4H,); gates in its order i, f, c, o."""

    name: str
    kernel: Float32
    recurrent: Float32
    bias: Float32

    @property
    def units(self) -> int:
        """The width of the hidden state, H."""
        return int(self.recurrent.shape[0])

    @classmethod
    def of(cls, layer: KerasModel) -> LstmWeights:
        """Read the weights of a Keras LSTM layer."""
        kernel, recurrent, bias = layer.get_weights()
        return cls(layer.name, kernel, recurrent, bias)


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
    """Write the recurrent branch, (N, T, S*S/T) -> (N, F), with LSTM operators or, by ``form``, its steps unrolled.

    It returns the name of the branch's result (N, F), and the affine step that whoever takes it has to fold in: batch
    normalization with no Dense layer of the branch's own behind it. ``sequence`` is the name of the graph's input.
    """
    value = writer.node("Transpose", [sequence], "rnn/time_major", perm=[1, 0, 2])  # both forms want (T, N, I)
    # N is read off the graph's input: a second taker of an LSTM's result would move where ONNX Runtime rounds to FP16
    batch = writer.node("Shape", [sequence], "rnn/batch", start=0, end=1) if form == "lstm" else ""
    for number in range(1, spec.rnn_layers + 1):
        weights = LstmWeights.of(rnn.get_layer(f"lstm_{number}"))
        last = number == spec.rnn_layers
        if form == "lstm":
            value = _write_lstm(writer, weights, value, batch, last=last)
        else:
            value = write_unrolled(writer, weights, value, spec.timesteps, last=last)
    names = {layer.name for layer in rnn.layers}
    affine = Affine.of_batch_norm(rnn.get_layer("rnn_batch_norm")) if "rnn_batch_norm" in names else None
    if "projection" not in names:
        return value, affine
    kernel, bias = rnn.get_layer("projection").get_weights()
    if affine is not None:
        kernel, bias = affine.fold(kernel, bias)
    return writer.dense(value, kernel, bias, "rnn/projection"), None


def _write_lstm(writer: GraphWriter, weights: LstmWeights, value: str, batch: str, *, last: bool) -> str:
    """Write an LSTM operator; it takes (T, N, I) and N to (T, N, H), or the last layer to its last state, (N, H)."""
    name = f"rnn/{weights.name}"
    bias = _onnx_gates(weights.bias[None])[:, :, 0]
    initial = _write_zeros(writer, name, batch, weights.units)
    inputs = [
        value,
        writer.constant(f"{name}/W", _onnx_gates(weights.kernel)),
        writer.constant(f"{name}/R", _onnx_gates(weights.recurrent)),
        writer.constant(f"{name}/B", np.concatenate([bias, np.zeros_like(bias)], axis=1)),
        "",  # sequence_lens: every sequence has all timesteps
        initial,
        initial,
    ]
    outputs = ["", f"{name}/hidden"] if last else [f"{name}/hidden"]
    hidden = writer.node("LSTM", inputs, outputs, hidden_size=weights.units)
    # Y is (T, directions, N, H), Y_h (directions, N, H)
    axis = writer.constant(f"{name}/direction", np.array([0 if last else 1], np.int64))
    return writer.node("Squeeze", [hidden, axis], f"{name}/output")


def _write_zeros(writer: GraphWriter, name: str, batch: str, units: int) -> str:
    """Write the states before the first step, (1, N, H), although ONNX takes zeros where an LSTM is given none.

    TensorRT's parser then makes the zeros itself, up to 10.6 at least in FP32, which a strongly typed network refuses
    beside FP16 weights. As tensors of the graph they are lowered with it.
    """
    one = writer.constant(f"{name}/one", np.array([1], np.int64))
    width = writer.constant(f"{name}/units", np.array([units], np.int64))
    shape = writer.node("Concat", [one, batch, width], f"{name}/state_shape", axis=0)
    zero = writer.constant(f"{name}/zero", np.zeros((1, 1, 1), np.float32))
    return writer.node("Expand", [zero, shape], f"{name}/initial")


def _onnx_gates(values: Float32) -> Float32:
    """Turn Keras's (I, 4H), gates i, f, c, o, into ONNX's (1, 4H, I), gates i, o, f, c."""
    gates = np.split(values, 4, axis=1)
    return np.concatenate([gates[gate].T for gate in KERAS_TO_ONNX])[None]
