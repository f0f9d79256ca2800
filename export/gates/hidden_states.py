"""Compares the last LSTM's hidden state after every timestep, which Keras and a graph both keep to themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ...runtime.backends.onnxruntime import TensorSession
from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from ..convert.fp32_graph import serialize
from ..convert.graph_reading import branch_of

Tensor = npt.NDArray[np.float32]
Batches = Callable[[int], Iterable[Mapping[str, Tensor]]]

HIDDEN = "rnn/hidden_states"


def with_hidden_states(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the output ``rnn/hidden_states`` (T, N, H), FP32, to a recurrent model in place, and return the model."""
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    states = _of_lstm(model, lstms[-1]) if lstms else _of_steps(model)
    model.graph.node.append(helper.make_node("Cast", [states], [HIDDEN], name=HIDDEN, to=TensorProto.FLOAT))
    model.graph.output.append(helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, None))
    return model


def _of_lstm(model: onnx.ModelProto, lstm: onnx.NodeProto) -> str:
    """Make an LSTM operator give all its states, and drop an axis: its output Y is (T, directions, N, H)."""
    lstm.output[0] = lstm.output[0] or f"{HIDDEN}/all"
    axis = helper.make_tensor(f"{HIDDEN}/axis", TensorProto.INT64, [1], [1])
    model.graph.initializer.append(axis)
    model.graph.node.append(
        helper.make_node("Squeeze", [lstm.output[0], axis.name], [f"{HIDDEN}/squeezed"], name=f"{HIDDEN}/squeezed")
    )
    return f"{HIDDEN}/squeezed"


def _of_steps(model: onnx.ModelProto) -> str:
    steps = [name for node in model.graph.node for name in node.output if _is_hidden(name)]
    layer = steps[-1].split("/")[1]  # the last in the graph's order: by name, lstm_10 would come before lstm_9
    last = [name for name in steps if name.split("/")[1] == layer]
    joined = f"{HIDDEN}/joined"
    model.graph.node.append(helper.make_node("Concat", last, [joined], name=joined, axis=0))
    return joined


def _is_hidden(name: str) -> bool:
    return branch_of(name) == "rnn" and "/step_" in name and name.endswith("/hidden")


def hidden_states(model: KerasModel, spec: ModelSpec, sequence: Tensor) -> Tensor:
    """Return the last LSTM's hidden state after every timestep, (N, T, H), for a sequence (N, T, S*S/T), on the CPU."""
    lstms = [model.get_layer("rnn").get_layer(f"lstm_{number + 1}") for number in range(spec.rnn_layers)]
    with keras.device("cpu:0"):
        value = sequence
        for lstm in lstms[:-1]:
            value = lstm(value, training=False)
        # the last layer gives only its last state, so its cell runs again in a loop that gives them all
        states = keras.layers.RNN(lstms[-1].cell, return_sequences=True)(value, training=False)
    return np.asarray(states, np.float32)


def hidden_drift(model: onnx.ModelProto, expected: Tensor | None, batches: Batches) -> tuple[float, ...]:
    """Measure how far a graph's hidden state is from Keras's after each timestep, simulated on the CPU.

    ``expected`` are Keras's hidden states (T, M, H), and ``batches`` gives the inputs of the first M images. It returns
    the RMS difference / RMS of Keras for each timestep; an empty tuple where ``expected`` is None, as without a
    recurrent branch. An output is added to the model.
    """
    if expected is None:
        return ()
    with TensorSession(serialize(with_hidden_states(model)), simulated=True) as session:
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
