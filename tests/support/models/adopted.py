"""Models that other code than this package's trained, on scikit-learn's handwritten digits in unequal colours."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt
from keras import layers
from sklearn.datasets import load_digits

SIZE = 24
LABELS = tuple(f"digit {number}" for number in range(10))
Frames = npt.NDArray[np.uint8]
Scaled = npt.NDArray[np.floating]


@cache
def digits() -> tuple[Frames, npt.NDArray[np.int64]]:
    """1,797 frames (N, S, S, 3) BGR, whose channels differ, and their numbers."""
    found = load_digits()
    ink = np.stack([cv2.resize(image * 255 / 16, (SIZE, SIZE)) for image in found.images]).clip(0, 255)
    frames = np.stack([255 - ink, 0.4 * ink + 60, ink], axis=-1)
    return frames.round().astype(np.uint8), found.target


def write_digits(folder: Path, first: int, last: int, labels: tuple[str, ...] = LABELS) -> Path:
    """Write some of them as PNGs in folders named by label."""
    frames, numbers = digits()
    for index in range(first, last):
        place = folder / labels[numbers[index]]
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{index}.png"), frames[index])
    return folder


def unit_rgb(frames: Frames) -> Scaled:
    return frames[..., ::-1] / 255.0


def caffe_bgr(frames: Frames) -> Scaled:
    return frames - np.array([103.939, 116.779, 123.68])


def raw_rgb(frames: Frames) -> Scaled:
    return frames[..., ::-1].astype(float)


def gray_unit(frames: Frames) -> Scaled:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames])[..., None] / 255.0


def cnn(*behind: Any, channels: int = 3) -> Any:
    """A small CNN that ends in ``behind``."""
    return keras.Sequential(
        [layers.Input((SIZE, SIZE, channels)), layers.Conv2D(12, 3, activation="relu"), layers.MaxPooling2D(), *behind]
    )


def with_rescaling() -> Any:
    image = layers.Input((SIZE, SIZE, 3))
    value = layers.Rescaling(1 / 127.5, -1)(image)
    value = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(value)
    value = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(value))
    value = layers.SeparableConv2D(24, 3, padding="same", activation="relu")(value)
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(value)))


def cnn_and_gru() -> Any:
    return cnn(layers.Reshape((11, 11 * 12)), layers.GRU(24), layers.Dense(10, activation="softmax"))


def bidirectional_rows() -> Any:
    return keras.Sequential(
        [
            layers.Input((SIZE, SIZE)),
            layers.Bidirectional(layers.LSTM(16, return_sequences=True)),
            layers.LSTM(24),
            layers.Dense(10, activation="softmax"),
        ]
    )


def flat_cnn(channels: int = 3) -> Any:
    behind = (layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax"))
    return cnn(*behind, channels=channels)


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Frames], Scaled]]] = {
    "sequential": (flat_cnn, unit_rgb),
    "bgr": (flat_cnn, caffe_bgr),
    "rescaling, logits": (with_rescaling, raw_rgb),
    "cnn and gru": (cnn_and_gru, unit_rgb),
    "gray": (lambda: flat_cnn(1), gray_unit),
}


@cache
def train(kind: str, epochs: int = 4) -> Any:
    """Train one of ``KINDS`` on the first 1,400 digits, the same each time."""
    keras.utils.set_random_seed(0)
    build, scale = KINDS[kind]
    model, (frames, numbers) = build(), digits()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=kind.endswith("logits"))
    model.compile(keras.optimizers.Adam(0.003), loss)
    model.fit(scale(frames[:1400]), numbers[:1400], epochs=epochs, batch_size=32, verbose=0)
    return model
