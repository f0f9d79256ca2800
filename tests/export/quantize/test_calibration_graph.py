from collections import Counter

import keras
import numpy as np
import onnx
import pytest
from support.models.lowered import SMALL, SMALL_RNN, VARIANTS, Array, Source, measured_source, tensors_of

from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.convert.graph_reading import branch_of
from hybrid_edge.export.quantize.calibration_graph import bounds, measured_graph
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.model import build_model

IMAGES = 4


@pytest.fixture(scope="module")
def measured(small_source: Source) -> dict[str, Array]:
    """Every output of the measured graph."""
    with TensorSession(serialize(measured_graph(small_source.forms["unrolled"]))) as session:
        return session.run(tensors_of(small_source.spec, IMAGES))


def test_an_lstms_steps_are_one_tensor_for_each_state(small_source: Source, measured: dict[str, Array]) -> None:
    spec = small_source.spec
    timesteps, units = spec.timesteps, spec.rnn_units
    for layer in ("rnn/lstm_1", "rnn/lstm_2"):
        shapes = {name.removeprefix(f"{layer}/"): value.shape for name, value in measured.items() if layer in name}
        assert shapes == {
            "product": (timesteps, IMAGES, 4 * units),
            "projected": (timesteps, IMAGES, 4 * units),
            "recurrent": (timesteps - 1, IMAGES, 4 * units),  # the first step has no product and no cell before it
            "gates": (timesteps - 1, IMAGES, 4 * units),
            "cell": (timesteps - 1, IMAGES, units),
            "hidden": (timesteps, IMAGES, units),
        }
    gates, recurrent = measured["rnn/lstm_1/gates"], measured["rnn/lstm_1/recurrent"]
    np.testing.assert_allclose(gates, recurrent + measured["rnn/lstm_1/projected"][1:], atol=1e-6)
    np.testing.assert_allclose(
        measured["rnn/lstm_2/product"][3], measured["rnn/lstm_1/hidden"][3] @ kernel(small_source), atol=1e-5
    )


def kernel(source: Source) -> Array:
    found = next(item for item in source.forms["unrolled"].graph.initializer if item.name == "rnn/lstm_2/W")
    return np.asarray(onnx.numpy_helper.to_array(found))


def test_every_activation_is_measured_and_no_shape_or_index(small_source: Source, measured: dict[str, Array]) -> None:
    assert {value.dtype for value in measured.values()} == {np.dtype(np.float32)}
    nodes = small_source.forms["unrolled"].graph.node
    operators = Counter(node.op_type for node in nodes if branch_of(node.name) == "cnn" and node.output[0] in measured)
    assert operators == {
        "Transpose": 2,
        "Conv": 3,
        "LeakyRelu": 4,
        "MaxPool": 3,
        "Reshape": 1,  # whose other input is made of Shape, Gather, Cast, Slice and Concat
        "MatMul": 1,
        "Add": 1,
    }
    assert {"logits", "probabilities", "rnn/time_major", "rnn/projection"} <= measured.keys()


def test_the_measured_graph_is_a_copy(small_source: Source) -> None:
    before = small_source.forms["unrolled"].SerializeToString()
    measured_graph(small_source.forms["unrolled"])
    assert small_source.forms["unrolled"].SerializeToString() == before


def test_pixels_their_means_and_hidden_states_are_bounded_and_nothing_else(small_source: Source) -> None:
    source = small_source.forms["unrolled"]
    found = bounds(source)
    first = next(node.output[0] for node in source.graph.node if node.op_type == "Transpose")
    bounded = {"image", "sequence", first, "rnn/time_major", "rnn/lstm_1/hidden", "rnn/lstm_2/hidden"}
    assert found == dict.fromkeys(bounded, (-1.0, 1.0))
    assert found.keys() <= small_source.statistics.keys()
    for name in found:
        assert small_source.statistics[name].peak <= 1
    assert small_source.statistics["rnn/lstm_1/gates"].peak > 1


@pytest.mark.parametrize(
    "spec",
    [SMALL.replace(branches="cnn"), SMALL_RNN, SMALL_RNN.replace(timesteps=1), SMALL.replace(rnn_units=128), None],
    ids=["cnn", "rnn", "one timestep", "no projection", "xception"],
)
def test_every_range_that_a_variant_needs_is_measured(spec: ModelSpec | None, request: pytest.FixtureRequest) -> None:
    """One that is missing is a KeyError."""
    if spec is None:
        source: Source = request.getfixturevalue("reduced_source")
    else:
        keras.utils.set_random_seed(0)
        builder = GraphBuilder(build_model(spec), spec)
        source = measured_source(spec, {form: builder.build(form) for form in ("lstm", "unrolled")}, 2)
    for form in source.forms:
        for variant in VARIANTS:
            assert source.lower(variant, form).graph.node
