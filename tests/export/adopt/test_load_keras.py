"""Models of checked files are rebuilt from Keras's own layers and answer as the files' own models do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from support.models.hostile_files import chain, graph, image, keras3, layer, tensor, weights

from hybrid_edge.export.adopt.load_keras import load_keras
from hybrid_edge.export.adopt.model_files import inspect_file
from hybrid_edge.runtime.errors import ModelFileError
from hybrid_edge.runtime.process import peak_mib

layers = keras.layers


def load(path: Path) -> Any:
    return load_keras(path, inspect_file(path))


@pytest.mark.parametrize("name", ["sequential.h5", "hybrid.h5", "rows.h5", "transfer.h5", "caffe.h5", "transfer.keras"])
def test_a_model_that_keras_2_wrote_answers_as_it_did_there(keras2_files: Path, name: str) -> None:
    model = load(keras2_files / name)
    known = np.load((keras2_files / name).with_suffix(".npz"))
    np.testing.assert_allclose(model(known["image"], training=False), known["answer"], rtol=1e-5, atol=1e-5)


def old_layer(class_name: str, name: str, **settings: Any) -> dict[str, Any]:
    return {"class_name": class_name, "name": name, "config": {"name": name, "trainable": True, **settings}}


OLD_LAYERS = [
    old_layer(
        "Conv2D",
        "c",
        batch_input_shape=[None, 8, 8, 3],
        filters=2,
        kernel_size=[3, 3],
        kernel_initializer={"class_name": "VarianceScaling", "config": {"scale": 1.0, "mode": "fan_avg", "seed": None}},
    ),
    old_layer("BatchNormalizationV1", "b", axis=[3], epsilon=0.001),
    old_layer("Flatten", "f", data_format="channels_last"),
    old_layer("Dense", "d", units=2, activation="softmax"),
]
OLD_GRAPH = {
    "name": "m",
    "layers": [
        {**old_layer("InputLayer", "i", batch_input_shape=[None, 8, 8, 3], sparse=False), "inbound_nodes": []},
        *({**made, "inbound_nodes": [[[name, 0, 0, {}]]]} for made, name in zip(OLD_LAYERS, "icbf", strict=True)),
    ],
    "input_layers": [["i", 0, 0]],
    "output_layers": [["d", 0, 0]],
}


@pytest.mark.parametrize(
    ("version", "config"),
    [
        ("2.1.6", {"class_name": "Sequential", "config": OLD_LAYERS}),
        ("2.2.4-tf", {"class_name": "Sequential", "config": {"name": "s", "layers": OLD_LAYERS}}),
        ("2.3.1", {"class_name": "Model", "config": OLD_GRAPH}),
    ],
)
def test_configurations_as_older_versions_wrote_them_are_read(version: str, config: Any, tmp_path: Path) -> None:
    arrays = {"c": [(3, 3, 3, 2), (2,)], "b": [(2,)] * 4, "d": [(72, 2), (2,)], "f": []}
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs.update(keras_version=version, model_config=json.dumps(config))
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in "cbfd"]
        for name, shapes in arrays.items():
            names = [f"{name}/{number}:0".encode() for number in range(len(shapes))]
            group.create_group(name).attrs["weight_names"] = np.array(names, "S9")
            for array, shape in zip(names, shapes, strict=True):
                group[name][array] = np.ones(shape, "float32")
    np.testing.assert_allclose(load(tmp_path / "old.h5")(np.ones((1, 8, 8, 3))), [[0.5, 0.5]])


def sequential() -> Any:
    return keras.Sequential([layers.Input((12, 12, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5)])


def with_operations() -> Any:
    """Arithmetic and functions of keras.ops between layers, and layers whose names Keras would count on from."""
    image = keras.Input((12, 12, 3))
    value = layers.Conv2D(4, 3, activation="gelu")(image / 127.5 - 1.0)
    value = value * keras.ops.sigmoid(value) + 1
    value = keras.ops.relu6(value + 3)[:, ::2, :, ::-1] * (1 / 6)
    value = keras.ops.mean(value, axis=[1, 2])
    value = layers.Dense(3)(keras.ops.concatenate([value, 2 - value], axis=-1))
    return keras.Model(image, keras.ops.softmax(value))


def shared_and_nested() -> Any:
    """A model inside that is called twice, another in a model inside, and augmentation."""
    block = keras.Sequential([layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()], name="block")
    image = keras.Input((12, 12, 3))
    value = keras.Sequential([layers.RandomFlip(), layers.RandomZoom(0.1)])(image)
    first = block(value)
    inside = keras.Input((12, 12, 4))
    body = keras.Model(inside, layers.Conv2D(3, 1)(inside), name="body")
    value = layers.Concatenate()([first, block(body(first))])
    return keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(value)))


def recurrent() -> Any:
    image = keras.Input((12, 12, 1))
    value = layers.Reshape((12, 12))(image)
    value = layers.Bidirectional(layers.LSTM(4, return_sequences=True, dropout=0.2))(value)
    return keras.Model(image, layers.Dense(3)(layers.GRU(5)(value)))


def attention() -> Any:
    image = keras.Input((12, 12, 3))
    value = layers.Reshape((9, 8))(layers.Conv2D(8, 4, strides=4)(image))
    value = layers.Add()([value, layers.MultiHeadAttention(2, 4)(layers.LayerNormalization()(value), value)])
    return keras.Model(image, layers.GlobalAveragePooling1D()(layers.TimeDistributed(layers.Dense(3))(value)))


def new_head() -> Any:
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    base.trainable = False
    image = keras.Input((32, 32, 3))
    value = base(layers.Rescaling(1 / 127.5, offset=-1)(image), training=False)
    return keras.Model(image, layers.Dense(3)(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(value))))


def many_layers() -> Any:
    """Layers with settings that are lists, functions or layers, and such as say training=True where they are called."""
    image = keras.Input((12, 12, 3))
    value = layers.RandomFlip()(layers.Resizing(10, 11, interpolation="bicubic")(image))
    value = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=np.array([1.0, 2.0, 3.0]))(value)
    value = layers.PReLU(shared_axes=[1, 2])(layers.Conv2DTranspose(6, 3, strides=2, output_padding=1)(value))
    value = layers.GroupNormalization(groups=3)(layers.ZeroPadding2D(((1, 0), (0, 2)))(value))
    value = layers.SeparableConv2D(4, 3, activation=layers.LeakyReLU(0.3))(value)
    value = layers.Conv2D(6, 3, groups=2, kernel_constraint="max_norm", activation=keras.activations.mish)(value)
    value = layers.ReLU(6.0, negative_slope=0.1)(layers.LayerNormalization(axis=[1, 2, 3])(value))
    value = layers.EinsumDense("abcd,de->abce", output_shape=(3, 3, 5))(layers.AdaptiveAveragePooling2D(3)(value))
    rows = layers.GRU(3, reset_after=False)(layers.Permute((2, 1))(layers.Reshape((9, 5))(value)))
    value = keras.ops.pad(value, [[0, 0], [1, 1], [0, 0], [0, 0]])
    value = layers.Dot(axes=(1, 1))([layers.Dense(3)(layers.Flatten()(keras.ops.var(value, axis=3))), rows])
    return keras.Model(image, layers.Dense(3)(value))


def convnext() -> Any:
    """ConvNeXt's blocks, in small: two of their layers stand beside the application in Keras."""
    from keras.src.applications.convnext import ConvNeXt

    return ConvNeXt([1] * 4, [4] * 4, 0.1, 1e-6, 32, "small", True, False, None, None, (32, 32, 3), "avg", 3, None)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(
    "make", [sequential, with_operations, shared_and_nested, recurrent, attention, new_head, convnext, many_layers]
)
def test_a_model_of_keras_3_answers_as_before(make: Callable[[], Any], suffix: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    model = make()
    for variable in model.weights:  # a fresh batch normalization's are all alike
        variable.assign(np.abs(np.random.default_rng(len(variable.path)).normal(0, 0.2, variable.shape)))
    model.save(tmp_path / f"model.{suffix}")
    images = np.random.default_rng(0).uniform(0, 1, (2, *model.input_shape[1:])).astype("float32")
    loaded = load(tmp_path / f"model.{suffix}")
    np.testing.assert_allclose(loaded(images, training=False), model(images, training=False), atol=1e-5)


def test_arithmetic_and_a_softmax_between_layers_become_layers_that_can_be_seen(tmp_path: Path) -> None:
    with_operations().save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras").layers
    assert (loaded[1].scale, loaded[2].offset) == (1 / 127.5, -1.0)
    assert loaded[-1].activation is keras.activations.softmax


def test_a_mixed_precision_model_becomes_float32(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    scores = layers.Dense(2, dtype="mixed_float16")(layers.Flatten()(image))
    keras.Model(image, scores).save(tmp_path / "model.keras")
    model = load(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


FLAT = (image(), layer("Flatten"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (chain(*FLAT, layer("Dense", units=2**27)), r"'dense' \(Dense\): it asks for an array of .*134217728"),
        (chain(*FLAT, layer("Dense", units=3)), "don't fit"),
        (chain(*FLAT, layer("Dense", units=2, nonsense=1)), r"'dense' \(Dense\) can't be built"),
        (chain(image(), layer("UpSampling2D", size=[2**14, 2**14])), r"'upsampling2d' .*gives the shape"),
        (chain(image(), layer("ZeroPadding2D", padding=2**14)), r"'zeropadding2d' .*gives the shape"),
        (chain(image(), layer("Reshape", target_shape=[2**20, 2**20])), r"'reshape'"),
        (
            graph(
                [
                    (image(), []),
                    (chain(layer("UpSampling2D", size=2**14), layer("GlobalAveragePooling2D")), [tensor("inputlayer")]),
                ],
                ["inputlayer"],
                ["chain"],
            ),
            "'chain' .*gives the shape",
        ),
        (graph([(image(), []), (layer("Flatten"), [tensor("flatten")])], ["inputlayer"], ["flatten"]), "feeds itself"),
        (graph([(image(), []), (layer("Flatten"), [tensor("nothing")])], ["inputlayer"], ["flatten"]), "nothing"),
        (graph([(image(), [])], ["inputlayer"], ["elsewhere"]), "elsewhere"),
    ],
)
def test_what_is_larger_than_the_file_or_makes_no_model_is_refused_by_name(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    before = peak_mib()
    stored = weights(tmp_path / "weights.h5", dense=np.zeros((192, 2), "float32"))
    with pytest.raises(ModelFileError, match=message):
        load(keras3(tmp_path / "model.keras", config, stored))
    assert peak_mib() - before < 500


def test_arrays_that_are_missing_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    for change in (_remove, _transpose):
        sequential().save(path)
        with h5py.File(path, "r+") as file:
            change(file["model_weights"])
        with pytest.raises(ModelFileError, match=r"'dense\w*' \(Dense\)|don't fit"):
            load(path)


def _dense(group: Any) -> str:
    return next(name for name in group if name.startswith("dense"))


def _remove(group: Any) -> None:
    group[_dense(group)].attrs["weight_names"] = np.array([], "S1")


def _transpose(group: Any) -> None:
    names = group[_dense(group)].attrs["weight_names"]
    inside = group[_dense(group)]
    name = next(name for name in names if "kernel" in str(name))
    kernel = np.asarray(inside[name]).T
    del inside[name]
    inside[name] = kernel


def test_variables_are_created_as_before_once_a_file_was_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        load(keras3(tmp_path / "model.keras", chain(*FLAT, layer("Dense", units=2**27))))
    assert float(np.abs(layers.Dense(2)(np.ones((1, 4), "float32"))).max()) > 0


def test_an_input_of_fixed_batches_takes_any_number_of_images(tmp_path: Path) -> None:
    keras.Sequential([layers.Input(batch_shape=(1, 8, 8, 3)), layers.Flatten()]).save(tmp_path / "model.keras")
    assert load(tmp_path / "model.keras").input_shape == (None, 8, 8, 3)


def test_initializers_and_regularizers_of_their_authors_do_not_matter(tmp_path: Path) -> None:
    model = sequential()
    model.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for made in config["config"]["layers"]:
            made["config"]["kernel_initializer"] = {"module": "mine", "class_name": "Mine", "config": {}}
            made["config"]["kernel_regularizer"] = "mine"
        file.attrs["model_config"] = json.dumps(config)
    images = np.ones((1, 12, 12, 3), "float32")
    np.testing.assert_array_equal(load(tmp_path / "model.h5")(images), model(images))
