"""Compares the last recurrent layer's hidden state after every step, which Keras and a graph keep to themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ...runtime.backends.onnxruntime import TensorSession
from ...runtime.spec import ModelSpec
from ...train.model import KerasModel, recurrent_layers
from ..convert.fp32_graph import serialize
from ..convert.graph_parts import part_for
from ..convert.graph_reading import BACKWARD, FORWARD, RECURRENT_OPERATORS, branch_of

Tensor = npt.NDArray[np.float32]
Batches = Callable[[int], Iterable[Mapping[str, Tensor]]]

HIDDEN = "rnn/hidden_states"
BIDIRECTIONAL = b"bidirectional"
FIRST = -(2**63)  # before the first index, where a slice goes backwards


def with_hidden_states(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the output ``rnn/hidden_states`` (T, N, H), FP32, to a recurrent model in place, and return the model.

    They are as ``hidden_states`` gives them, those of two directions beside each other.
    """
    operators = [node for node in model.graph.node if node.op_type in RECURRENT_OPERATORS]
    parts = _of_operator(model, operators[-1]) if operators else _of_steps(model)
    states = parts[0] if len(parts) == 1 else _add(model, "Concat", parts, "both", axis=2)
    model.graph.node.append(helper.make_node("Cast", [states], [HIDDEN], name=HIDDEN, to=TensorProto.FLOAT))
    model.graph.output.append(helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, None))
    return model


def _of_operator(model: onnx.ModelProto, operator: onnx.NodeProto) -> list[str]:
    """Make an operator give all its states, one tensor for each direction: its output Y is (T, directions, N, H)."""
    operator.output[0] = operator.output[0] or f"{HIDDEN}/all"
    axis = _constant(model, "axis", 1)
    if BIDIRECTIONAL not in (item.s for item in operator.attribute):
        return [_add(model, "Squeeze", [operator.output[0], axis], "squeezed")]
    parts = [
        _add(model, "Gather", [operator.output[0], _constant(model, f"index_{way}", way)], f"way_{way}", axis=1)
        for way in (0, 1)
    ]
    forward, backward = (_add(model, "Squeeze", [part, axis], f"squeezed_{way}") for way, part in enumerate(parts))
    # from the order of time to that of its steps
    order = (("from", -1), ("to", FIRST), ("time", 0), ("by", -1))
    constants = [_constant(model, name, value) for name, value in order]
    return [forward, _add(model, "Slice", [backward, *constants], "backward")]


def _of_steps(model: onnx.ModelProto) -> list[str]:
    steps = [name for node in model.graph.node for name in node.output if _is_hidden(name)]
    layer = steps[-1].split("/")[1]  # the last in the graph's order: by name, lstm_10 would come before lstm_9
    layers = [layer.removesuffix(BACKWARD) + FORWARD, layer] if layer.endswith(BACKWARD) else [layer]
    return [
        _add(model, "Concat", [name for name in steps if name.split("/")[1] == own], f"joined_{number}", axis=0)
        for number, own in enumerate(layers)
    ]


def _add(model: onnx.ModelProto, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
    output = f"{HIDDEN}/{name}"
    model.graph.node.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
    return output


def _constant(model: onnx.ModelProto, name: str, value: int) -> str:
    model.graph.initializer.append(helper.make_tensor(f"{HIDDEN}/{name}", TensorProto.INT64, [1], [value]))
    return f"{HIDDEN}/{name}"


def _is_hidden(name: str) -> bool:
    return branch_of(name) == "rnn" and "/step_" in name and name.endswith("/hidden")


def hidden_states(model: KerasModel, spec: ModelSpec, sequence: Tensor) -> Tensor:
    """Return the last layer's hidden state after each step, (N, T, H), for a sequence (N, T, S*S/T), on the CPU.

    Two directions' are beside each other, (N, T, 2*H), each in the order of its own steps: the last row is what the
    layer gives.
    """
    *before, last = recurrent_layers(model, spec)
    both = isinstance(last, keras.layers.Bidirectional)
    cells = [last.forward_layer.cell, last.backward_layer.cell] if both else [last.cell]
    with keras.device("cpu:0"):
        value = sequence
        for layer in before:
            value = layer(value, training=False)
        # the last layer gives only its last state, so its cells run again in loops that give them all
        loops = [keras.layers.RNN(cell, return_sequences=True, go_backwards=way == 1) for way, cell in enumerate(cells)]
        states = [np.asarray(loop(value, training=False), np.float32) for loop in loops]
    return np.concatenate(states, axis=2)


def hidden_drift(model: onnx.ModelProto, expected: Tensor | None, batches: Batches) -> tuple[float, ...]:
    """Measure how far a graph's hidden state is from Keras's after each timestep, simulated on the CPU.

    ``expected`` are Keras's hidden states (T, M, H), and ``batches`` gives the inputs of the first M images. It returns
    the RMS difference / RMS of Keras for each timestep; an empty tuple where ``expected`` is None, as without a
    recurrent branch. An output is added to the model.
    """
    if expected is None:
        return ()
    recurrent = part_for(with_hidden_states(model), [HIDDEN])  # the CNN has no part in them
    with TensorSession(serialize(recurrent), simulated=True) as session:
        return relative_drift(expected, (session.run(tensors)[HIDDEN] for tensors in batches(expected.shape[1])))


def relative_drift(expected: Tensor, found: Iterable[npt.NDArray[np.generic]]) -> tuple[float, ...]:
    """Compare hidden states (T, M, H) with those that come in batches (T, n, H): RMS difference / RMS, by timestep."""
    timesteps = len(expected)
    differences, squares = np.zeros(timesteps), np.zeros(timesteps)
    done = 0
    for batch in found:
        own = expected[:, done : done + batch.shape[1]]
        differences += np.square(batch.astype(np.float64) - own).sum(axis=(1, 2))
        squares += np.square(own, dtype=np.float64).sum(axis=(1, 2))
        done += batch.shape[1]
    return tuple(np.sqrt(differences / np.maximum(squares, np.finfo(np.float32).tiny)).tolist())
