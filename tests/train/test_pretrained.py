"""Weights for the CNN branch: from a file, from Keras, and what is said when they can't be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from hybrid_edge.runtime.errors import UsageError, WeightsError
from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import load_pretrained, save_model
from hybrid_edge.train.training_settings import PHASES, TrainSettings

SPEC = preset("digits").replace(class_labels=("0", "1"))


def cnn_weights(model: keras.Model) -> list[np.ndarray]:
    return list(model.get_layer("cnn").get_weights())


def test_none_leaves_the_random_weights() -> None:
    model = build_model(SPEC)
    before = cnn_weights(model)
    load_pretrained(model, SPEC, "none")
    np.testing.assert_array_equal(before[0], cnn_weights(model)[0])


def test_a_model_file_gives_its_cnn_to_a_model_with_other_classes(tmp_path: Path) -> None:
    source = build_model(SPEC)
    save_model(source, SPEC, tmp_path / "source.keras")
    described = preset("digits", "cnn").replace(class_labels=("a", "b", "c"))
    model = build_model(described)
    load_pretrained(model, described, str(tmp_path / "source.keras"))
    for mine, theirs in zip(cnn_weights(model), cnn_weights(source), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_keras_own_weights_file_of_the_cnn_is_taken(tmp_path: Path) -> None:
    source = build_model(SPEC)
    source.get_layer("cnn").save_weights(tmp_path / "cnn.weights.h5")
    model = build_model(SPEC)
    load_pretrained(model, SPEC, str(tmp_path / "cnn.weights.h5"))
    np.testing.assert_array_equal(cnn_weights(model)[0], cnn_weights(source)[0])


def test_keras_legacy_h5_of_the_cnn_is_taken(tmp_path: Path) -> None:
    """The format of Keras's own Xception file without its top layer."""
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    source = build_model(SPEC)
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        save_weights_to_hdf5_group(file, source.get_layer("cnn"))
    model = build_model(SPEC)
    load_pretrained(model, SPEC, str(tmp_path / "notop.h5"))
    for mine, theirs in zip(cnn_weights(model), cnn_weights(source), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_file_that_is_absent_is_named_with_the_alternatives() -> None:
    with pytest.raises(WeightsError, match=r"'nowhere\.h5', which is no file.*--weights none"):
        load_pretrained(build_model(SPEC), SPEC, "nowhere.h5")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "weights.txt"
    other.write_text("hello")
    with pytest.raises(WeightsError, match=r"expected a \.keras file of hybrid-train or an \.h5 file"):
        load_pretrained(build_model(SPEC), SPEC, str(other))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    wider = SPEC.replace(image_size=56, timesteps=56)
    build_model(wider).get_layer("cnn").save_weights(tmp_path / "wider.weights.h5")
    with pytest.raises(WeightsError, match="don't fit the digits branch at 28x28"):
        load_pretrained(build_model(SPEC), SPEC, str(tmp_path / "wider.weights.h5"))
    save_model(build_model(wider), wider, tmp_path / "wider.keras")
    with pytest.raises(WeightsError, match="CNN does not fit"):
        load_pretrained(build_model(SPEC), SPEC, str(tmp_path / "wider.keras"))


def test_a_damaged_h5_is_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(WeightsError, match="don't fit"):
        load_pretrained(build_model(SPEC), SPEC, str(damaged))


def test_a_model_without_a_cnn_has_none_to_give(tmp_path: Path) -> None:
    alone = preset("digits", "rnn").replace(class_labels=("0", "1"))
    save_model(build_model(alone), alone, tmp_path / "rnn.keras")
    with pytest.raises(WeightsError, match="expected a CNN branch inside, found branches=rnn"):
        load_pretrained(build_model(SPEC), SPEC, str(tmp_path / "rnn.keras"))


def test_a_keras_file_of_someone_else_is_refused_with_the_alternatives(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(WeightsError, match=r"not written by hybrid-train.*--weights none"):
        load_pretrained(build_model(SPEC), SPEC, str(tmp_path / "other.keras"))


def test_imagenet_weights_that_cannot_be_downloaded_name_the_alternatives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        print("Downloading data")  # noqa: T201  as Keras does
        raise OSError("URL fetch failure: no route")

    monkeypatch.setattr("keras.src.applications.xception.file_utils.get_file", offline)
    described = ModelSpec(image_size=71, timesteps=71, rnn_units=4, class_labels=("0", "1"))
    with pytest.raises(WeightsError, match=r"can't be downloaded \(URL fetch failure: no route\).*--weights none"):
        load_pretrained(build_model(described), described, "imagenet")
    assert capsys.readouterr().out == ""


def test_weights_that_cannot_apply_are_refused_before_anything_starts() -> None:
    fields = {"data": "x", "phases": PHASES["digits"]}
    with pytest.raises(UsageError, match="ImageNet weights exist for the xception backbone"):
        TrainSettings.make(**fields, spec=preset("digits"), weights="imagenet")
    with pytest.raises(UsageError, match="which --branches rnn leaves out"):
        TrainSettings.make(**fields, spec=preset("digits", "rnn"), weights="imagenet")
    none = [phase.model_copy(update={"epochs": 0}) for phase in PHASES["digits"]]
    with pytest.raises(UsageError, match="nothing would be trained"):
        TrainSettings.make(**{**fields, "phases": none}, spec=preset("digits"))
