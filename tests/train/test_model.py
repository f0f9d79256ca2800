import numpy as np
import pytest

from hybrid_edge.runtime.errors import SpecError
from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.spec import ModelSpec, preset

keras = pytest.importorskip("keras")

from support.models.standin import with_logits

from hybrid_edge.train.model import build_head_model, build_model, recurrent_layers

LABELS = tuple("0123456789")


def spec(branches: str = "hybrid", **fields: object) -> ModelSpec:
    return preset("digits", branches).replace(class_labels=LABELS, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("branches", "parameters"), [("hybrid", 437_194), ("cnn", 356_810), ("rnn", 24_714)])
def test_the_digits_networks_have_the_parameters_of_their_layers(branches: str, parameters: int) -> None:
    assert build_model(spec(branches)).count_params() == parameters


def test_the_reference_hybrid_has_103_million_parameters_of_which_82_in_the_lstms() -> None:
    reference = ModelSpec(class_labels=tuple(f"class {i}" for i in range(100)))
    model = build_model(reference, empty=True)
    assert model.count_params() == 103_256_716
    assert model.get_layer("rnn").count_params() == 82_190_336
    assert model.get_layer("cnn").output_shape == (None, 2048)


def test_the_models_own_sequence_equals_the_preprocessing(frames: list[np.ndarray]) -> None:
    for described in (
        spec(),
        spec(timesteps=14),
        spec(timesteps=16, sequence_order="patches"),
        spec(scaling="torch", timesteps=49, sequence_order="patches"),
        ModelSpec(image_size=75, timesteps=25, rnn_units=4, class_labels=LABELS),
    ):
        model = build_model(described)
        tensors = Preprocessor(described)(frames)
        own = keras.Model(model.input, model.get_layer("sequence").output)(tensors["image"])
        np.testing.assert_allclose(np.asarray(own), tensors["sequence"], atol=1e-6, rtol=0)


def test_branches_of_different_width_are_projected_to_the_cnns() -> None:
    described = ModelSpec(image_size=71, timesteps=71, rnn_units=8, class_labels=LABELS)
    rnn = build_model(described).get_layer("rnn")
    assert rnn.get_layer("projection").output.shape == (None, 2048)


def test_branches_of_the_same_width_are_not_projected() -> None:
    names = [layer.name for layer in build_model(spec()).get_layer("rnn").layers]
    assert "projection" not in names


def test_logits_and_probabilities_come_from_the_same_weights(frames: list[np.ndarray]) -> None:
    model = build_model(spec())
    image = Preprocessor(spec())(frames)["image"]
    logits, probabilities = (np.asarray(value) for value in with_logits(model)(image))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exponentials / exponentials.sum(axis=1, keepdims=True), probabilities, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(model(image)), probabilities)


def test_the_head_model_on_the_cnns_features_equals_the_whole(frames: list[np.ndarray]) -> None:
    for branches in ("hybrid", "cnn"):
        model = build_model(spec(branches))
        tensors = Preprocessor(spec())(frames)
        inputs = {"features": np.asarray(model.get_layer("cnn")(tensors["image"]))}
        if branches == "hybrid":
            inputs["sequence"] = tensors["sequence"]
        head = build_head_model(model, spec(branches))
        np.testing.assert_allclose(np.asarray(head(inputs)), np.asarray(model(tensors["image"])), atol=1e-6)


@pytest.mark.parametrize(
    ("merge", "name", "join"),
    [("multiply", "product", np.multiply), ("add", "sum", np.add), ("concatenate", "concatenation", None)],
)
@pytest.mark.parametrize("cell", ["gru", "bilstm"])
def test_branches_meet_as_the_spec_says(
    frames: list[np.ndarray], cell: str, merge: str, name: str, join: np.ufunc | None
) -> None:
    described = spec(cell=cell, merge=merge, rnn_units=6, rnn_layers=2)
    model = build_model(described)
    tensors = Preprocessor(described)(frames)
    cnn = np.asarray(model.get_layer("cnn")(tensors["image"]))
    rnn = np.asarray(model.get_layer("rnn")(tensors["sequence"]))
    expected = np.concatenate([cnn, rnn], axis=1) if join is None else join(cnn, rnn)
    found = keras.Model(model.input, model.get_layer(name).output)(tensors["image"])
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)
    head = build_head_model(model, described)({"features": cnn, "sequence": tensors["sequence"]})
    np.testing.assert_allclose(np.asarray(head), np.asarray(model(tensors["image"])), atol=1e-6)
    assert [layer.name for layer in recurrent_layers(model, described)] == [f"{cell}_1", f"{cell}_2"]
    assert rnn.shape[1] == (128 if join else 6 * (2 if cell == "bilstm" else 1))


def test_an_adopted_models_spec_is_refused() -> None:
    with pytest.raises(SpecError, match="with branches, found that of an adopted one"):
        build_model(ModelSpec(branches="adopted", class_labels=LABELS))


def test_one_class_is_refused() -> None:
    with pytest.raises(SpecError, match="at least two class labels, found 1"):
        build_model(preset("digits").replace(class_labels=("only",)))


@pytest.fixture
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ((28, 28), (60, 91), (33, 20))
    ]
