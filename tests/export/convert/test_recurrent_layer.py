"""One recurrent layer as ONNX, with every option that Keras has for it, and what is refused."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from support.models.lowered import Array, error_of
from support.models.recurrent_layers import LAYERS, TIMESTEPS, VALUES, make_layer, written

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.recurrent import Form
from hybrid_edge.export.convert.recurrent_layer import RecurrentLayer
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.errors import ConversionError

FORMS: tuple[Form, ...] = ("lstm", "unrolled")
layers = keras.layers


def run(model: onnx.ModelProto, value: Array) -> Array:
    with TensorSession(serialize(model), threads=1) as session:
        return np.asarray(session.run({"sequence": value})["logits"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_computes_what_keras_computes(make: Callable[[], Any], form: Form) -> None:
    layer = make_layer(make)
    model = written(layer, form)
    onnx.checker.check_model(model, full_check=True)
    value = np.random.default_rng(2).normal(0, 1, (3, TIMESTEPS, VALUES)).astype(np.float32)
    for rows in (value[:1], value):
        expected = np.asarray(layer(rows))
        assert np.abs(expected).max() > 0.01
        assert error_of(run(model, rows), expected) <= 1e-5
    assert RecurrentLayer.of(layer).width == layer.compute_output_shape(value.shape)[-1]


@pytest.mark.parametrize("form", FORMS)
def test_a_stack_of_layers_computes_what_keras_computes(form: Form) -> None:
    stack = [
        layers.Bidirectional(layers.GRU(5, return_sequences=True), name="both ways"),
        layers.LSTM(4, return_sequences=True, go_backwards=True, name="back"),
        layers.GRU(3, name="last"),
    ]
    value = np.random.default_rng(3).normal(0, 1, (3, TIMESTEPS, VALUES)).astype(np.float32)
    expected = value
    for layer in stack:
        expected = layer(expected)
    assert error_of(run(written(stack, form), value), np.asarray(expected)) <= 1e-5


def test_names_tell_the_layer_its_direction_and_the_step() -> None:
    layer = make_layer(lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="rows (both)"))
    names = {node.name for node in written(layer, "unrolled").graph.node}
    last = f"step_{TIMESTEPS - 1:02}"
    assert {f"rnn/rows__both_-{way}/{last}/hidden" for way in ("forward", "backward")} <= names
    assert {name.split("/")[0] for name in names - {"logits", "probabilities"}} == {"rnn"}
    operators = written(layer, "lstm").graph.node
    assert [node.name for node in operators if node.op_type == "LSTM"] == ["rnn/rows__both_/hidden"]


class OwnLstm(layers.LSTM):  # type: ignore[misc]  # keras ships no type information
    pass


def masked() -> Any:
    layer = layers.GRU(3, name="refused")
    layer(layers.Masking()(keras.Input((TIMESTEPS, VALUES))))
    return layer


def started() -> Any:
    layer = layers.GRU(3, name="refused")
    layer(keras.Input((TIMESTEPS, VALUES)), initial_state=keras.Input((3,)))
    return layer


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "activation": (lambda: layers.LSTM(3, activation="relu", name="refused"), "activation tanh, found relu"),
    "recurrent activation": (
        lambda: layers.GRU(3, recurrent_activation="relu", name="refused"),
        "recurrent_activation sigmoid or hard_sigmoid, found relu",
    ),
    "stateful": (lambda: layers.LSTM(3, stateful=True, name="refused"), "build it with stateful=False"),
    "state": (lambda: layers.GRU(3, return_state=True, name="refused"), "build it with return_state=False"),
    "SimpleRNN": (lambda: layers.SimpleRNN(3, name="refused"), "found SimpleRNN; train it again with a built-in"),
    "cell": (lambda: layers.RNN(layers.LSTMCell(3), name="refused"), "found RNN of LSTMCell"),
    "subclass": (lambda: OwnLstm(3, name="refused"), "found OwnLstm"),
    "unmerged": (
        lambda: layers.Bidirectional(layers.LSTM(3), merge_mode=None, name="refused"),
        "merge_mode concat, sum, mul, ave, found None",
    ),
    "two kinds": (
        lambda: layers.Bidirectional(layers.LSTM(3), backward_layer=layers.GRU(3, go_backwards=True), name="refused"),
        "two directions of one kind",
    ),
    "swapped": (
        lambda: layers.Bidirectional(layers.LSTM(3, go_backwards=True), backward_layer=layers.LSTM(3), name="refused"),
        "swap it with its backward_layer",
    ),
    "inner activation": (
        lambda: layers.Bidirectional(layers.GRU(3, activation="elu"), name="refused"),
        "activation tanh, found elu",
    ),
    "masked": (masked, "remove Masking or mask_zero"),
    "started": (started, "train it without initial_state"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_written_is_refused_with_the_layers_name_and_what_would_help(
    make: Callable[[], Any], message: str
) -> None:
    layer = make()
    if not layer.built:
        layer.build((2, TIMESTEPS, VALUES))
    with pytest.raises(ConversionError, match=f"the layer 'refused' .*{message}"):
        RecurrentLayer.of(layer)


def test_a_conv_lstm_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"'maps' .*found ConvLSTM2D"):
        RecurrentLayer.of(layers.ConvLSTM2D(3, 3, name="maps"))
