import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
keras = pytest.importorskip("keras")

from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from hybrid_edge.runtime.errors import WeightsError
from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.spec import SPATIAL_MINIMUM, Backbone, ModelSpec
from hybrid_edge.train.backbones import BACKBONES, count_parameters
from hybrid_edge.train.model import build_application, build_model
from hybrid_edge.train.model_file import load_model, load_pretrained, save_model, weights_sha256

APPLICATIONS = [name for name, facts in BACKBONES.items() if facts.application]
PREPROCESSED_OUTSIDE: dict[Backbone, str] = {
    "xception": "xception",
    "mobilenet_v2": "mobilenet_v2",
    "resnet50_v2": "resnet_v2",
    "densenet121": "densenet",
}
SCALING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
LABELS = ("left", "right", "none")


def smallest(backbone: Backbone, **fields: Any) -> ModelSpec:
    """The CNN of a backbone at the smallest size that it takes."""
    size = SPATIAL_MINIMUM.get(backbone, 32)
    facts = BACKBONES[backbone]
    given = {"image_size": size, "timesteps": size, "scaling": facts.scaling, "branches": "cnn", **fields}
    return ModelSpec.make(backbone=backbone, class_labels=LABELS, **given)


def leaves(layer: Any) -> Iterator[Any]:
    if inner := getattr(layer, "layers", None):
        for item in inner:
            yield from leaves(item)
    else:
        yield layer


def products(layer: Any) -> tuple[int, int]:
    """The multiply-accumulates of a layer for one image, and how many convolutions it is."""
    kinds = keras.layers
    if isinstance(layer, kinds.SeparableConv2D):
        pixels = math.prod(layer.output.shape[1:3])
        return pixels * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)), 2
    if isinstance(layer, kinds.DepthwiseConv2D):
        return math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:2]), 1
    if isinstance(layer, kinds.Conv2D):
        return math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:3]), 1
    if isinstance(layer, kinds.Dense):
        return math.prod(layer.output.shape[1:]) * layer.kernel.shape[0], len(layer.output.shape) == 4
    return 0, 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_table_of_backbones_has_the_counts_of_kerass_models(backbone: Backbone) -> None:
    facts = BACKBONES[backbone]
    described = smallest(backbone, image_size=facts.image_size, timesteps=facts.timesteps)
    cnn = build_model(described).get_layer("cnn")
    macs, convolutions = (sum(counts) for counts in zip(*map(products, leaves(cnn)), strict=True))
    assert (cnn.count_params(), cnn.output_shape) == (facts.parameters, (None, facts.features))
    assert (macs, convolutions) == (facts.macs, facts.convolutions)


@pytest.mark.parametrize("backbone", APPLICATIONS)
def test_a_backbone_sees_pixels_as_kerass_own_model_scales_them(backbone: Backbone) -> None:
    described, facts = smallest(backbone), BACKBONES[backbone]
    frame = np.random.default_rng(0).integers(0, 256, described.image_shape, np.uint8)
    ours = Preprocessor(described)([frame])["image"]
    pixels = frame[None, :, :, ::-1].astype(np.float32)
    whole = keras_model(described)
    scaling = [layer for layer in whole.layers if isinstance(layer, SCALING_LAYERS)]
    assert bool(scaling) == facts.scales_itself
    if scaling:
        seen = np.asarray(keras.Model(whole.input, scaling[-1].output)(pixels))
    else:
        pixels = getattr(keras.applications, PREPROCESSED_OUTSIDE[backbone]).preprocess_input(pixels)
        seen = pixels
    np.testing.assert_allclose(ours, seen, atol=1e-6, rtol=0)
    cnn = build_application(described)
    cnn.set_weights(whole.get_weights())
    found, expected = (np.asarray(features) for features in (cnn(ours), whole(pixels)))
    scale = np.abs(expected).max()  # of random weights: 1e-11 with some
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def keras_model(described: ModelSpec) -> Any:
    """Keras's own model, with the scaling inside where it has that."""
    build = getattr(keras.applications, BACKBONES[described.backbone].application)
    return build(weights=None, include_top=False, pooling="avg", input_shape=described.image_shape)


@pytest.mark.parametrize(
    "changes",
    [
        {"cell": "gru", "merge": "concatenate"},
        {"cell": "bilstm", "merge": "add", "rnn_batch_norm": True},
        {"cell": "bilstm", "rnn_units": 64},
        {"cell": "gru", "rnn_units": 128, "rnn_layers": 3},
        {"cell": "gru", "branches": "rnn", "rnn_batch_norm": True},
        {"cell": "bilstm", "branches": "rnn"},
        {"branches": "cnn", "image_size": 20},
        {"merge": "concatenate", "rnn_batch_norm": True, "image_size": 41, "timesteps": 41},
    ],
    ids=str,
)
def test_the_weights_of_a_spec_are_counted_without_building_it(changes: dict[str, Any]) -> None:
    described = smallest("digits", image_size=28, timesteps=14, branches="hybrid", rnn_units=9, rnn_layers=2)
    described = described.replace(**changes)
    assert count_parameters(described) == build_model(described).count_params()


def offline(*_: object, **__: object) -> None:
    raise OSError("URL fetch failure: no route")


@pytest.mark.parametrize(
    ("backbone", "size"), [*((name, SPATIAL_MINIMUM.get(name, 32)) for name in APPLICATIONS), ("mobilenet_v2", 96)]
)
def test_the_message_without_a_network_names_the_file_that_keras_asked_for(
    backbone: Backbone, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = smallest(backbone, image_size=size, timesteps=size)
    asked: list[str] = []
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda name, *_, **__: asked.append(name) or offline())
    with pytest.raises(WeightsError) as refused:
        load_pretrained(build_model(smallest("digits")), described, "imagenet")
    assert f"ImageNet weights of {BACKBONES[backbone].application} can't be downloaded (URL fetch" in str(refused.value)
    assert f"Place {asked[0]} in ~/.keras/models, or: --weights none" in str(refused.value)


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "convnext_tiny"])
def test_the_file_that_keras_publishes_fills_the_backbone(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of the whole model, with the scaling inside, in Keras's old format."""
    described = smallest(backbone)
    source = keras_model(described)
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        save_weights_to_hdf5_group(file, source)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: tmp_path / "notop.h5")
    for weights in ("imagenet", str(tmp_path / "notop.h5")):
        model = build_model(described)
        load_pretrained(model, described, weights)
        for mine, theirs in zip(model.get_layer("cnn").get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "convnext_tiny"])
def test_a_saved_model_of_another_backbone_comes_back(backbone: Backbone, tmp_path: Path) -> None:
    described = smallest(backbone)
    model = build_model(described)
    save_model(model, described, tmp_path / "model.keras")
    loaded, spec = load_model(tmp_path / "model.keras")
    assert spec == described
    assert weights_sha256(loaded) == weights_sha256(model)
    digits = smallest("digits", image_size=32, timesteps=32)
    with pytest.raises(WeightsError, match=f"expected the CNN of digits, found that of {backbone}"):
        load_pretrained(build_model(digits), digits, str(tmp_path / "model.keras"))
