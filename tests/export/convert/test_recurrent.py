from typing import Any

import keras
import numpy as np
import pytest
from support.models.lowered import (
    SMALL,
    SMALL_RNN,
    Array,
    Source,
    constants_of,
    error_of,
    logits_of,
    randomize,
    tensors_of,
)
from support.models.standin import with_logits

from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.convert.inspection import Declaration, check_graph, count_operators, count_steps
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.model import build_model

BATCHES = (slice(0, 1), slice(2, 5), slice(0, 8))
SPECS = {
    "one LSTM": SMALL_RNN.replace(rnn_layers=1),
    "two LSTMs": SMALL_RNN,
    "batch norm folded into the head": SMALL_RNN.replace(rnn_batch_norm=True),
    "one timestep, of all pixels": SMALL_RNN.replace(timesteps=1),
    "a hybrid with a projection": SMALL.replace(rnn_batch_norm=True),
    "two GRUs": SMALL_RNN.replace(cell="gru"),
    "two LSTMs in both directions": SMALL_RNN.replace(cell="bilstm"),
    "a hybrid with a GRU": SMALL.replace(cell="gru", rnn_layers=1),
    "a hybrid with an LSTM in both directions": SMALL.replace(cell="bilstm", rnn_batch_norm=True),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_the_unrolled_form_computes_what_the_lstm_form_and_keras_compute(spec: ModelSpec) -> None:
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    randomize(model)
    builder = GraphBuilder(model, spec)
    lstm, unrolled = builder.build("lstm"), builder.build("unrolled")
    check_graph(unrolled, spec, Declaration("unrolled"))
    both = tensors_of(spec.replace(branches="hybrid"), 8)  # Keras takes the image, an RNN's graph the sequence alone
    for rows in BATCHES:
        part = {name: tensor[rows] for name, tensor in both.items()}
        expected: Array = np.asarray(with_logits(model)(part["image"])[0])
        tensors = {name: part[name] for name in spec.inputs}
        found = logits_of(unrolled, tensors)
        assert np.abs(expected).max() > 0.1
        assert error_of(found, expected) <= 1e-5
        assert error_of(found, logits_of(lstm, tensors)) <= 1e-5


def test_every_timestep_is_written_out_and_none_is_left_in_an_operator(digits_source: Source) -> None:
    unrolled, timesteps = digits_source.forms["unrolled"], digits_source.spec.timesteps
    assert count_steps(unrolled) == timesteps
    assert count_steps(digits_source.forms["lstm"]) == 0
    counts = count_operators(unrolled)
    assert not counts.keys() & {"LSTM", "Loop", "Scan"}
    assert counts["Tanh"] == 2 * timesteps


def test_the_input_is_projected_in_one_product_and_the_first_step_has_none(digits_source: Source) -> None:
    products = [node for node in digits_source.forms["unrolled"].graph.node if node.op_type == "MatMul"]
    of_rnn = [node.name for node in products if node.name.startswith("rnn/")]
    steps = [f"rnn/lstm_1/step_{step:02}/recurrent" for step in range(1, digits_source.spec.timesteps)]
    assert of_rnn == ["rnn/lstm_1/product", *steps]


def test_a_weight_is_stored_once_however_many_steps_take_it(digits_source: Source, exported_digits: Any) -> None:
    unrolled = digits_source.forms["unrolled"]
    takers = [node for node in unrolled.graph.node if "rnn/lstm_1/R" in node.input]
    assert len(takers) == digits_source.spec.timesteps - 1
    lstm = exported_digits.model.get_layer("rnn").get_layer("lstm_1")
    stored = sum(
        values.size
        for name, values in constants_of(unrolled).items()
        if name.startswith("rnn/") and values.dtype == np.float32
    )
    assert stored == lstm.count_params()
    sizes = {form: len(serialize(model)) for form, model in digits_source.forms.items()}
    assert sizes["unrolled"] < 1.03 * sizes["lstm"]
