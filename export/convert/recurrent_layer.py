"""Reads what one recurrent Keras layer computes: its weights and options, or why it can't be written as ONNX."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt

from ...runtime.errors import ConversionError
from ...train.model import KerasModel
from .graph_reading import BACKWARD, FORWARD

Float32 = npt.NDArray[np.float32]
Kind = Literal["LSTM", "GRU"]  # as ONNX's operators are called too

GATES: dict[Kind, int] = {"LSTM": 4, "GRU": 3}  # Keras's order: i, f, c, o of an LSTM; z, r, h of a GRU
MERGES = ("concat", "sum", "mul", "ave")
HARD_SIGMOID = {"alpha": 1 / 6, "beta": 0.5}  # Keras 3's slope; that of Keras 2 was 0.2
BUILT_IN = "train it again with a built-in LSTM or GRU"


@dataclass(frozen=True, eq=False)
class CellWeights:
    """The weights of one direction of a layer of H units on I inputs; its gates, G of them, in Keras's order.

    Attributes:
        kernel: (I, G*H) float32.
        recurrent: (H, G*H) float32.
        bias: (G*H,) float32, added to the projected input; zeros where the layer has none.
        recurrent_bias: (G*H,) float32, added to the projected hidden state; None unless it is a GRU with a bias that
            resets after the product.
        reset_after: whether a GRU's reset gate scales the projected hidden state, and not what is projected.
        hard: whether the gates are Keras's hard sigmoid, and not the sigmoid.
    """

    kind: Kind
    kernel: Float32
    recurrent: Float32
    bias: Float32
    recurrent_bias: Float32 | None = None
    reset_after: bool = False
    hard: bool = False

    @property
    def units(self) -> int:
        """The width of the hidden state, H."""
        return int(self.recurrent.shape[0])

    @property
    def products(self) -> int:
        """The number of weights that each step multiplies with."""
        return self.kernel.size + self.recurrent.size

    @classmethod
    def of(cls, layer: KerasModel) -> CellWeights:
        """Read a built Keras LSTM or GRU."""
        cell = layer.cell
        kernel, recurrent = (np.asarray(item.numpy(), np.float32) for item in (cell.kernel, cell.recurrent_kernel))
        bias = np.zeros(kernel.shape[1], np.float32) if cell.bias is None else np.asarray(cell.bias.numpy(), np.float32)
        kind: Kind = "LSTM" if isinstance(layer, keras.layers.LSTM) else "GRU"
        # a GRU's two biases are the rows of one weight
        own, other = bias if bias.ndim == 2 else (bias, None)
        hard = layer.recurrent_activation is keras.activations.hard_sigmoid
        return cls(kind, kernel, recurrent, own, other, kind == "GRU" and bool(layer.reset_after), hard)


@dataclass(frozen=True, eq=False)
class RecurrentLayer:
    """One recurrent Keras layer.

    Attributes:
        name: names its nodes, ``rnn/NAME/…``; it must be the only one of that name in its graph.
        cells: one direction, or the forward and the backward one of a Bidirectional, which are of one kind and width.
        sequences: whether it gives the hidden state of every timestep, and not the last one alone.
        backwards: whether a layer of one direction begins with the last timestep (``go_backwards``); its states then
            come in the order in which they were made, as in Keras.
        merge: how the directions become one, of ``MERGES``; ``concat`` for one direction.
    """

    name: str
    cells: tuple[CellWeights, ...]
    sequences: bool
    backwards: bool = False
    merge: str = "concat"

    @property
    def directions(self) -> tuple[str, ...]:
        """The names of its directions, one for each cell."""
        return (self.name,) if len(self.cells) == 1 else (self.name + FORWARD, self.name + BACKWARD)

    @property
    def width(self) -> int:
        """The number of its outputs, F: H, or twice as many where directions are concatenated."""
        units = self.cells[0].units
        return units * len(self.cells) if self.merge == "concat" else units

    @classmethod
    def of(cls, layer: KerasModel, name: str | None = None) -> RecurrentLayer:
        """Read a built Keras LSTM, GRU or Bidirectional of one; ``name`` is by default the layer's own.

        Characters of the name that node names can't have become underscores. Dropout counts for nothing: it is off in
        inference.

        Raises:
            ConversionError: it can't be written; the message names the layer, what was found, and what would help.
        """
        for fault in _faults(layer):
            raise ConversionError(f"the layer {layer.name!r} ({type(layer).__name__}) can't be converted: {fault}")
        shown = re.sub(r"\W", "_", name or layer.name)
        if isinstance(layer, keras.layers.Bidirectional):
            cells = tuple(CellWeights.of(inner) for inner in (layer.forward_layer, layer.backward_layer))
            return cls(shown, cells, bool(layer.return_sequences), merge=layer.merge_mode)
        return cls(shown, (CellWeights.of(layer),), bool(layer.return_sequences), bool(layer.go_backwards))


def is_recurrent(layer: KerasModel) -> bool:
    """Tell whether a Keras layer goes through timesteps, whether or not ``RecurrentLayer`` can read it."""
    return isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional))


def _faults(layer: KerasModel) -> Iterator[str]:
    """Yield what keeps a layer from being written, the first cause first."""
    if type(layer) is not keras.layers.Bidirectional:
        yield from _cell_faults(layer)
    else:
        for inner in (layer.forward_layer, layer.backward_layer):
            yield from _cell_faults(inner)
        yield from _pair_faults(layer)
    for node in layer._inbound_nodes:
        if any(getattr(tensor, "_keras_mask", None) is not None for tensor in node.input_tensors):
            yield "its input is masked: expected sequences of one length; remove Masking or mask_zero"
        elif len(node.input_tensors) > 1:
            yield "it starts from a state that it is given: expected one input; train it without initial_state"


def _cell_faults(layer: KerasModel) -> Iterator[str]:
    if type(layer) not in (keras.layers.LSTM, keras.layers.GRU):
        found = type(layer).__name__
        cell = f" of {type(layer.cell).__name__}" if type(layer) is keras.layers.RNN else ""
        yield f"expected an LSTM, a GRU or a Bidirectional of one, found {found}{cell}; {BUILT_IN}"
        return
    if layer.activation is not keras.activations.tanh:
        yield f"expected activation tanh, found {_function_name(layer.activation)}; {BUILT_IN} and its defaults"
    if layer.recurrent_activation not in (keras.activations.sigmoid, keras.activations.hard_sigmoid):
        found = _function_name(layer.recurrent_activation)
        yield f"expected recurrent_activation sigmoid or hard_sigmoid, found {found}; {BUILT_IN} and its defaults"
    if layer.stateful:
        yield "it keeps its state between batches: build it with stateful=False, which takes the same weights"
    if layer.return_state:
        yield "it returns its state too: build it with return_state=False, which takes the same weights"
    if not layer.built:
        yield "it has no weights yet: build the model, or call it once"


def _pair_faults(layer: KerasModel) -> Iterator[str]:
    if layer.merge_mode not in MERGES:
        yield f"expected merge_mode {', '.join(MERGES)}, found {layer.merge_mode}; join its two outputs by one of them"
    forward, backward = layer.forward_layer, layer.backward_layer
    if forward.go_backwards or not backward.go_backwards:
        yield "its forward layer goes backwards: swap it with its backward_layer"
    alike = [
        (type(inner).__name__, inner.units, inner.recurrent_activation, getattr(inner, "reset_after", None))
        for inner in (forward, backward)
    ]
    if alike[0] != alike[1]:
        yield "expected two directions of one kind, width and recurrent_activation; train it without a backward_layer"


def _function_name(function: Any) -> str:
    return str(getattr(function, "__name__", function))
