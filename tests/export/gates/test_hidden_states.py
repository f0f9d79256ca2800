from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx
import pytest
from support.models.lowered import SMALL_RNN, VARIANTS, Array, Source, is_simulated, randomize, tensors_of

from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.gates.hidden_states import HIDDEN, with_hidden_states
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.model import build_model

FORMS = ("lstm", "unrolled")


def hidden_of(model: onnx.ModelProto, tensors: dict[str, Array], variant: str = "fp32") -> Array:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    with TensorSession(serialize(with_hidden_states(copied)), threads=1, simulated=is_simulated(variant)) as session:
        return np.asarray(session.run(tensors)[HIDDEN])


def hidden_in_keras(model: Any, sequence: Array) -> Array:
    value = sequence
    for layer in model.get_layer("rnn").layers:
        if isinstance(layer, keras.layers.LSTM):
            value = keras.layers.RNN(layer.cell, return_sequences=True)(value)
    return np.asarray(value).transpose(1, 0, 2)


@pytest.mark.parametrize(
    "spec",
    [SMALL_RNN, SMALL_RNN.replace(rnn_layers=1), SMALL_RNN.replace(rnn_layers=11, timesteps=4, rnn_units=4)],
    ids=["two layers", "one layer", "eleven layers"],
)
def test_the_hidden_states_are_those_of_the_last_layer_in_keras(spec: ModelSpec) -> None:
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    randomize(model)
    builder = GraphBuilder(model, spec)
    tensors = tensors_of(spec, 3)
    expected = hidden_in_keras(model, tensors["sequence"])
    assert expected.shape == (spec.timesteps, 3, spec.rnn_units)
    assert np.abs(expected[0] - expected[-1]).max() > 0.01
    for form in FORMS:
        np.testing.assert_allclose(hidden_of(builder.build(form), tensors), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_variant_of_any_precision_gives_its_states_in_fp32(small_source: Source, form: str, variant: str) -> None:
    tensors = tensors_of(small_source.spec, 3)
    expected = hidden_of(small_source.forms["lstm"], tensors)
    found = hidden_of(small_source.lower(variant, form), tensors, variant)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (small_source.spec.timesteps, 3, small_source.spec.rnn_units)
    assert np.abs(found - expected).max() <= {"fp32": 1e-5, "fp16": 2e-3}.get(variant, 0.05)
