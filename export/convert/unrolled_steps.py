"""Writes one direction of a recurrent layer as steps, one after the other, which quantization can reach into.

The input's projection is hoisted out of the recurrence into one matrix product. An LSTM's steps:

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
A GRU's (Cho et al. 2014; as in Keras), with z, r = sigmoid of their two thirds of projected_t + h_{t-1} R:

    g   = tanh(projected_t + r (h_{t-1} R + b'))  with reset_after, else tanh(projected_t + (r h_{t-1}) R')
    h_t = z h_{t-1} + (1 - z) g = g + z (h_{t-1} - g)

R is one initializer that every step refers to. The first step has no product: h and c are zero before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from .graph_writer import GraphWriter
from .recurrent_layer import HARD_SIGMOID, CellWeights, Float32

KERAS_TO_UNROLLED = (0, 1, 3, 2)  # gates: Keras i, f, c, o; here i, f, o, c, so that one Sigmoid takes three of them


def write_steps(
    writer: GraphWriter, name: str, cell: CellWeights, value: str, timesteps: int, *, backwards: bool
) -> list[str]:
    """Write one direction on ``value`` (T, N, I), and return the names of its hidden states, (1, N, H) each.

    They are ``NAME/step_TT/hidden``, in the order in which they are made: the last timestep's first if ``backwards``.
    """
    steps = _LstmSteps(writer, name, cell) if cell.kind == "LSTM" else _GruSteps(writer, name, cell)
    inputs = steps.project(value, timesteps, backwards=backwards)
    steps.store()
    return [steps.step(f"{name}/step_{number:02}", parts) for number, parts in enumerate(inputs)]


class _Steps(ABC):
    """Writes a direction step after step, and keeps the names of the states between them."""

    def __init__(self, writer: GraphWriter, name: str, cell: CellWeights) -> None:
        self._writer = writer
        self._name = name
        self._weights = cell
        self._hidden = ""

    @abstractmethod
    def project(self, value: str, timesteps: int, *, backwards: bool) -> list[list[str]]:
        """Project the inputs of all timesteps; return, for each step in its order, what it takes of that."""

    @abstractmethod
    def store(self) -> None:
        """Write the constants that all steps share."""

    @abstractmethod
    def step(self, name: str, projected: list[str]) -> str:
        """Return the name of the hidden state, (1, N, H)."""

    def _project(self, value: str, kernel: Float32, bias: Float32) -> str:
        name, writer = self._name, self._writer
        product = writer.node("MatMul", [value, writer.constant(f"{name}/W", kernel)], f"{name}/product")
        return writer.node("Add", [product, writer.constant(f"{name}/b", bias)], f"{name}/projected")

    def _split_timesteps(self, value: str, part: str, timesteps: int, sizes: str, *, backwards: bool) -> list[str]:
        """Split (T, N, …) into timesteps; return their names in the order of the steps that take them."""
        parts = [f"{self._name}/step_{step:02}/{part}" for step in range(timesteps)]
        self._writer.node("Split", [value, sizes], parts[::-1] if backwards else parts, axis=0)
        return parts

    def _sizes(self, name: str, *sizes: int) -> str:
        return self._writer.constant(f"{self._name}/{name}", np.array(sizes, np.int64))

    def _sigmoid(self, value: str, output: str) -> str:
        if self._weights.hard:
            return self._writer.node("HardSigmoid", [value], output, **HARD_SIGMOID)
        return self._writer.node("Sigmoid", [value], output)


class _LstmSteps(_Steps):
    def project(self, value: str, timesteps: int, *, backwards: bool) -> list[list[str]]:
        weights = self._weights
        projected = self._project(value, _gates(weights.kernel), _gates(weights.bias[None])[0])
        sizes = self._sizes("steps", *[1] * timesteps)
        return [[part] for part in self._split_timesteps(projected, "input", timesteps, sizes, backwards=backwards)]

    def store(self) -> None:
        self._cell = ""
        self._recurrent = self._writer.constant(f"{self._name}/R", _gates(self._weights.recurrent))
        units = self._weights.units
        self._halves = self._sizes("sigmoids_and_candidate", 3 * units, units)
        self._thirds = self._sizes("input_forget_output", units, units, units)

    def step(self, name: str, projected: list[str]) -> str:
        node = self._writer.node
        (gates,) = projected
        if self._hidden:
            product = node("MatMul", [self._hidden, self._recurrent], f"{name}/recurrent")
            gates = node("Add", [product, gates], f"{name}/gates")
        node("Split", [gates, self._halves], [f"{name}/open", f"{name}/raw"], axis=2)
        self._sigmoid(f"{name}/open", f"{name}/sigmoids")
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


class _GruSteps(_Steps):
    def project(self, value: str, timesteps: int, *, backwards: bool) -> list[list[str]]:
        weights, units, name = self._weights, self._weights.units, self._name
        bias = weights.bias.copy()
        if weights.recurrent_bias is not None:
            bias[: 2 * units] += weights.recurrent_bias[: 2 * units]  # the candidate's goes through the reset gate
        projected = self._project(value, weights.kernel, bias)
        self._thirds = self._sizes("gates_and_candidate", 2 * units, units)
        halves = [f"{name}/projected_gates", f"{name}/projected_candidate"]
        self._writer.node("Split", [projected, self._thirds], halves, axis=2)
        sizes = self._sizes("steps", *[1] * timesteps)
        parts = zip(halves, ("input_gates", "input_candidate"), strict=True)
        inputs = [self._split_timesteps(half, part, timesteps, sizes, backwards=backwards) for half, part in parts]
        return [list(pair) for pair in zip(*inputs, strict=True)]

    def store(self) -> None:
        weights, units, constant = self._weights, self._weights.units, self._writer.constant
        self._halves = self._sizes("update_and_reset", units, units)
        self._offset = ""
        if weights.reset_after:
            self._recurrent = constant(f"{self._name}/R", weights.recurrent)
            if weights.recurrent_bias is not None:
                self._offset = constant(f"{self._name}/recurrent_b", weights.recurrent_bias[2 * units :])
        else:
            self._recurrent = constant(f"{self._name}/R", weights.recurrent[:, : 2 * units])
            self._candidate = constant(f"{self._name}/R_candidate", weights.recurrent[:, 2 * units :])

    def step(self, name: str, projected: list[str]) -> str:
        node, before = self._writer.node, self._hidden
        gates, candidate = projected
        product = node("MatMul", [before, self._recurrent], f"{name}/recurrent") if before else ""
        raw = product
        if product and self._weights.reset_after:
            raw = f"{name}/recurrent_candidate"
            node("Split", [product, self._thirds], [f"{name}/recurrent_gates", raw], axis=2)
            product = f"{name}/recurrent_gates"
        if product:
            gates = node("Add", [product, gates], f"{name}/gates")
        self._sigmoid(gates, f"{name}/sigmoids")
        node("Split", [f"{name}/sigmoids", self._halves], [f"{name}/z", f"{name}/r"], axis=2)
        if reset := self._reset(name, raw):
            candidate = node("Add", [reset, candidate], f"{name}/sum")
        new = node("Tanh", [candidate], f"{name}/candidate")
        if not before:
            kept = node("Mul", [f"{name}/z", new], f"{name}/kept")
            self._hidden = node("Sub", [new, kept], f"{name}/hidden")
        else:
            change = node("Sub", [before, new], f"{name}/change")
            kept = node("Mul", [f"{name}/z", change], f"{name}/kept")
            self._hidden = node("Add", [new, kept], f"{name}/hidden")
        return self._hidden

    def _reset(self, name: str, recurrent: str) -> str:
        """Write what the hidden state before adds to the candidate; return its name, or "" where it adds nothing."""
        node = self._writer.node
        if not self._weights.reset_after:
            if not self._hidden:
                return ""
            reset = node("Mul", [f"{name}/r", self._hidden], f"{name}/reset")
            return node("MatMul", [reset, self._candidate], f"{name}/recurrent_candidate")
        if recurrent and self._offset:
            recurrent = node("Add", [recurrent, self._offset], f"{name}/shifted")
        recurrent = recurrent or self._offset
        return node("Mul", [f"{name}/r", recurrent], f"{name}/reset") if recurrent else ""


def _gates(values: Float32) -> Float32:
    """Reorder Keras's (I, 4H) from gates i, f, c, o to gates i, f, o, c."""
    quarters = np.split(values, 4, axis=1)
    return np.concatenate([quarters[gate] for gate in KERAS_TO_UNROLLED], axis=1)
