"""Writes tests/data/keras2.zip: small models as Keras 2 saves them, each with an input and what it answers.

It needs Keras 2 in an environment of its own: ``pip install tf-keras``, then ``python keras2_files.py keras2.zip``.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def sequential(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(16, 16, 3)),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3),
            layers.SeparableConv2D(6, 3),
            layers.LeakyReLU(0.1),
            layers.Dropout(0.2),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )


def hybrid(keras: Any) -> Any:
    """A CNN × a GRU of both kinds, over the rows."""
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    cnn = layers.Dense(8)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, padding="same")(image)))
    rnn = layers.GRU(8, return_sequences=True)(layers.Reshape((16, 48))(image))
    rnn = layers.GRU(8, reset_after=False)(rnn)
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Multiply()([cnn, rnn])))


def rows(keras: Any) -> Any:
    """A bidirectional LSTM over the rows of a gray image without a channel."""
    layers = keras.layers
    first = layers.Bidirectional(layers.LSTM(6, return_sequences=True))
    second = layers.Bidirectional(layers.LSTM(5), merge_mode="sum")
    return keras.Sequential([layers.Input((16, 16)), first, second, layers.Dense(4)])


def transfer(keras: Any) -> Any:
    """A frozen model inside, behind augmentation and arithmetic; one of its layers has a name with a slash."""
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    value = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)])(image)
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(2).normal(1, 2, (9, 4, 4, 3)).astype("float32"))
    value = (normalization(value) - 1.0) / 2.0
    inside = keras.Input((16, 16, 3))
    body = layers.Conv2D(4, 3, use_bias=False)(inside)
    body = layers.BatchNormalization(name="Conv/BatchNorm")(body)
    body = layers.Conv2D(4, 3, use_bias=False, padding="same")(body)
    body = layers.BatchNormalization(axis=-1)(body)
    backbone = keras.Model(inside, layers.Activation("swish")(body), name="backbone")
    backbone.trainable = False
    value = layers.GlobalAveragePooling2D()(backbone(value, training=False))
    return keras.Model(image, layers.Dense(3, activation="softmax")(value))


def caffe(keras: Any) -> Any:
    """What transfer learning with a ResNet50 puts in front: TensorFlow's own slicing and adding."""
    image = keras.Input((16, 16, 3))
    value = keras.applications.resnet50.preprocess_input(image)
    value = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(value))
    return keras.Model(image, keras.layers.Dense(3)(value))


def with_code(keras: Any) -> Any:
    """A Lambda, whose code lies marshalled in the file."""
    return keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Lambda(lambda value: value + 1)])


def hard_sigmoid(keras: Any) -> Any:
    lstm = keras.layers.LSTM(3, recurrent_activation="hard_sigmoid")
    return keras.Sequential([keras.layers.Input((8, 8)), lstm])


def main() -> None:
    """Write every model with random weights into the archive named on the command line."""
    import tf_keras as keras

    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as archive:
        place = Path(folder)
        for make in (sequential, hybrid, rows, transfer, caffe, with_code, hard_sigmoid):
            model = make(keras)
            if make is not with_code:
                model.set_weights([_values(random, weight) for weight in model.weights])
            model.save(place / f"{make.__name__}.h5")
            image = random.normal(0, 1, (2, *model.input_shape[1:])).astype("float32")
            np.savez(place / f"{make.__name__}.npz", image=image, answer=model(image, training=False))
            if make is sequential:
                model.save(place / "sequential")
            if make is transfer:
                model.save(place / "transfer.keras")
        for path in sorted(place.rglob("*")):
            archive.write(path, path.relative_to(place))


def _values(random: np.random.Generator, weight: Any) -> Any:
    if "count" in weight.name:
        return weight.numpy()
    values = random.normal(0, 0.3, weight.shape)
    return 0.5 + np.abs(values) if "variance" in weight.name else values


if __name__ == "__main__":
    main()
