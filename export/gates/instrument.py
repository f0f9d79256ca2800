"""Makes a graph also give the last LSTM's hidden state after every timestep."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from ..convert.layers import branch_of

__all__ = ["HIDDEN", "with_hidden_states"]

HIDDEN = "rnn/hidden_states"


def with_hidden_states(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the output ``rnn/hidden_states`` (T, N, H), FP32, to a model in place, and return the model.

    Args:
        model: an artifact of any precision with a recurrent branch, in either form.
    """
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
