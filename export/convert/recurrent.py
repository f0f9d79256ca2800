"""Writes the recurrent branch straight from the Keras weights, in one of two forms.

The form ``lstm`` has ONNX LSTM operators. In ``unrolled`` the input's projection is hoisted out of the recurrence into
one matrix product, and the steps are written out one after the other with one copy of the weights, which quantization
can reach into. Each form takes the sequence and the layers' weights and gives the last hidden state; what follows is
the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from .unrolled import LstmWeights, write_unrolled
from .writer import GraphWriter

__all__ = ["Affine", "Form", "LstmWeights", "write_recurrent"]

Form = Literal["lstm", "unrolled"]

Float64 = npt.NDArray[np.float64]

KERAS_TO_ONNX = (0, 3, 1, 2)  # gates: Keras i, f, c, o; ONNX i, o, f, c


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
    """Write the recurrent branch.

    Args:
        writer: the writer of a graph that has the input ``sequence``.
        rnn: the nested Keras model, (N, T, S*S/T) -> (N, F).
        spec: the spec of the whole model.
        sequence: the name of the input (N, T, S*S/T).
        form: LSTM operators, or the steps unrolled.

    Returns:
        The name of the branch's result (N, F), and the affine step that whoever takes it has to fold in: batch
        normalization with no Dense layer of the branch's own behind it.
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
