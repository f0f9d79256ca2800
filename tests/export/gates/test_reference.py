from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from support.models.lowered import SMALL_RNN, VARIANTS, Array, Source, is_simulated, randomize, tensors_of
from support.models.standin import with_logits, write_crops

from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.gates.hidden_states import HIDDEN, hidden_states, with_hidden_states
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.errors import DataError, ImageError, ParityError
from hybrid_edge.runtime.preprocess import Preprocessor, read_image
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.data import LabelledImage
from hybrid_edge.train.model import build_model


@pytest.fixture
def images(photos: Path) -> list[LabelledImage]:
    return [LabelledImage(path, path.parent.name) for path in sorted(photos.rglob("*.png"))]


def test_it_is_what_keras_gives_in_the_order_of_the_images(exported_digits: Any, images: list[LabelledImage]) -> None:
    seen: list[int] = []
    reference = Reference.of(exported_digits.model, exported_digits.spec, images[:11], on_batch=seen.append)
    frames = [read_image(image.path) for image in images[:11]]
    tensors = Preprocessor(exported_digits.spec)(frames)
    logits, probabilities = with_logits(exported_digits.model)(tensors["image"], training=False)
    # the same sums in another order: of some 1000 products each, off by 6e-8 * sqrt(1000) of their size in each layer
    rounding = 1e-5 * float(np.abs(logits).max())
    np.testing.assert_allclose(reference.logits, logits, atol=rounding)
    np.testing.assert_allclose(reference.probabilities, probabilities, atol=rounding / 2)  # p (1 - p) is 1/4 at most
    assert reference.images == tuple(images[:11])
    assert seen == [8, 3]
    again = [batch["sequence"] for batch in reference.batches(10)]
    assert [len(batch) for batch in again] == [8, 2]
    np.testing.assert_array_equal(np.concatenate(again), tensors["sequence"][:10])


@pytest.mark.parametrize("size", ["digits", "reduced"])
def test_hidden_states_are_the_last_lstms_at_every_timestep(
    size: str, images: list[LabelledImage], request: pytest.FixtureRequest
) -> None:
    exported = request.getfixturevalue(f"exported_{size}")
    spec, rnn = exported.spec, exported.model.get_layer("rnn")
    reference = Reference.of(exported.model, spec, images[:9], hidden_images=5)
    assert reference.hidden.shape == (spec.timesteps, 5, spec.rnn_units)
    sequence = Preprocessor(spec)([read_image(image.path) for image in images[:5]])["sequence"]
    for timestep in (1, 3, spec.timesteps):  # an LSTM that stops earlier gives its state of then
        value = sequence[:, :timestep]
        for number in range(1, spec.rnn_layers + 1):
            value = rnn.get_layer(f"lstm_{number}")(value)
        np.testing.assert_allclose(reference.hidden[timestep - 1], value, atol=1e-5)


def test_unreadable_images_are_passed_over_and_named(
    exported_digits: Any, images: list[LabelledImage], tmp_path: Path
) -> None:
    broken = LabelledImage(tmp_path / "broken.png", "class_00")
    broken.path.write_bytes(b"\x89PNG\r\n\x1a\n")
    reference = Reference.of(exported_digits.model, exported_digits.spec, [*images[:3], broken, *images[3:10]])
    assert reference.images == tuple(images[:10])
    assert len(reference) == len(reference.logits) == 10
    assert reference.skipped[0].startswith(str(broken.path))
    with pytest.raises(DataError, match="none of 1 readable"):
        Reference.of(exported_digits.model, exported_digits.spec, [broken])


def test_an_image_that_vanished_since_is_an_error_with_its_name(exported_digits: Any, tmp_path: Path) -> None:
    folder = write_crops(tmp_path, 1, seed=3)
    path = next(folder.rglob("*.png"))
    reference = Reference.of(exported_digits.model, exported_digits.spec, [LabelledImage(path, "")])
    path.unlink()
    with pytest.raises(ImageError, match=path.name):
        list(reference.batches())


def test_a_keras_model_that_diverged_is_called_so(exported_digits: Any, images: list[LabelledImage]) -> None:
    model = build_model(exported_digits.spec)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * np.nan, bias])
    with pytest.raises(ParityError, match="the training diverged"):
        Reference.of(model, exported_digits.spec, images[:1])


FORMS = ("lstm", "unrolled")


def hidden_of(model: onnx.ModelProto, tensors: dict[str, Array], variant: str = "fp32") -> Array:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    with TensorSession(serialize(with_hidden_states(copied)), threads=1, simulated=is_simulated(variant)) as session:
        return np.asarray(session.run(tensors)[HIDDEN])


def hidden_in_keras(model: Any, spec: ModelSpec, sequence: Array) -> Array:
    """The last layer's states, (T, N, H), each direction's in the order in which it makes them."""
    value = states = sequence
    for number in range(1, spec.rnn_layers + 1):
        layer = model.get_layer("rnn").get_layer(f"{spec.cell}_{number}")
        if spec.cell != "bilstm":
            value = states = np.asarray(keras.layers.RNN(layer.cell, return_sequences=True)(value))
            continue
        forward = keras.layers.RNN(layer.forward_layer.cell, return_sequences=True)(value)
        backward = np.asarray(keras.layers.RNN(layer.backward_layer.cell, return_sequences=True)(value[:, ::-1]))
        states = np.concatenate([forward, backward], axis=2)
        value = np.concatenate([forward, backward[:, ::-1]], axis=2)
    return states.transpose(1, 0, 2)


@pytest.mark.parametrize(
    "spec",
    [
        SMALL_RNN,
        SMALL_RNN.replace(rnn_layers=1),
        SMALL_RNN.replace(rnn_layers=11, timesteps=4, rnn_units=4),
        SMALL_RNN.replace(cell="gru"),
        SMALL_RNN.replace(cell="bilstm"),
    ],
    ids=["two layers", "one layer", "eleven layers", "GRUs", "both directions"],
)
def test_the_hidden_states_are_those_of_the_last_layer_in_keras(spec: ModelSpec) -> None:
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    randomize(model)
    builder = GraphBuilder(model, spec)
    tensors = tensors_of(spec, 3)
    expected = hidden_in_keras(model, spec, tensors["sequence"])
    assert expected.shape == (spec.timesteps, 3, spec.rnn_units * (2 if spec.cell == "bilstm" else 1))
    assert np.abs(expected[0] - expected[-1]).max() > 0.01
    np.testing.assert_allclose(hidden_states(model, spec, tensors["sequence"]).transpose(1, 0, 2), expected, atol=1e-6)
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
