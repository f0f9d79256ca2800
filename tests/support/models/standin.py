"""A stand-in for trained weights: random branches with honest statistics and a head fitted on real features.

With raw random weights the softmax is flat and any parity check passes. Here BatchNorm's statistics are re-estimated on
crops of real photographs, the crops are labelled by cluster of CNN features x cluster of RNN features, and the head is
fitted to tell these labels apart; so outputs are decided, differ between images, and depend on both branches.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt
import skimage.data
import sklearn.datasets
import tensorflow as tf
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import save_model

Frame = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]
Model = Any

FULL = ModelSpec(class_labels=tuple(f"class_{number:02}" for number in range(100)))
REDUCED = FULL.replace(image_size=71, timesteps=71, rnn_units=64)
DIGITS = preset("digits").replace(class_labels=tuple("0123456789"))
# all inside the installed packages: nothing is downloaded
PHOTOGRAPHS = ("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png")
PHOTOGRAPHS += ("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png")
PHOTOGRAPHS += ("retina.jpg", "rocket.jpg")
BATCH = 8
COMPONENTS = 100
ITERATIONS = 60


@dataclass(frozen=True)
class Sizes:
    """How many crops to re-estimate BatchNorm on and to fit the head on."""

    statistics: int = 48
    fit: int = 160
    pairs: int = 4000


def with_logits(model: Model) -> Model:
    """A model with the same layers and the outputs ``[logits, probabilities]``, each (N, C)."""
    return keras.Model(model.input, [model.get_layer("logits").output, model.output])


def photographs() -> list[Frame]:
    """Real photographs, BGR."""
    folder = Path(skimage.data.__file__).parent
    paths = [folder / name for name in PHOTOGRAPHS]
    images = Path(sklearn.datasets.__file__).parent / "images"
    paths += [images / "china.jpg", images / "flower.jpg"]
    return [np.asarray(cv2.imread(os.fspath(path), cv2.IMREAD_COLOR), np.uint8) for path in paths]


def crops(count: int, seed: int) -> list[Frame]:
    """Random square crops of the photographs in turn, 25 to 90 % of the shorter side, half of them mirrored."""
    rng = np.random.default_rng(seed)
    sources = photographs()
    frames = []
    for number in range(count):
        source = sources[number % len(sources)]
        height, width = source.shape[:2]
        side = int(min(height, width) * rng.uniform(0.25, 0.9))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        crop = source[top : top + side, left : left + side]
        frames.append(np.ascontiguousarray(crop[:, ::-1] if rng.integers(2) else crop))
    return frames


def write_crops(folder: Path, count: int, seed: int, classes: int = 4) -> Path:
    """The crops as class folders of PNGs; the classes mean nothing."""
    for number, frame in enumerate(crops(count, seed)):
        target = folder / f"class_{number % classes:02}"
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(os.fspath(target / f"{number:04}.png"), frame)
    return folder


def make_standin(spec: ModelSpec, path: Path, sizes: Sizes | None = None, seed: int = 0) -> Model:
    """Build the stand-in of a hybrid's spec, or of a CNN's alone, and save it as hybrid-train would."""
    sizes = sizes or Sizes()
    keras.utils.set_random_seed(seed)
    model = build_model(spec, empty=True)
    if spec.uses_rnn:
        fill_recurrent(model.get_layer("rnn"), seed)
    _reestimate(model.get_layer("cnn"), spec, crops(sizes.statistics, seed + 1))
    images, sequences = features(model, spec, crops(sizes.fit, seed + 2))
    with threadpool_limits(1):  # small matrices: BLAS threads that spin for each other take longer than one
        head = _fit_head(images, sequences, spec.num_classes, sizes.pairs, seed)
    model.get_layer("logits").set_weights(head)
    save_model(model, spec, path)
    return model


def features(model: Model, spec: ModelSpec, frames: Sequence[Frame]) -> tuple[Array, Array]:
    """What the two branches give, (N, F) each; ones, (N, 1), in place of a recurrent branch that is not there."""
    cnn = tf.function(lambda image: model.get_layer("cnn")(image, training=False), reduce_retracing=True)
    images, sequences = [], []
    for tensors in _batches(spec, frames):
        images.append(np.asarray(cnn(tensors["image"])))
        sequences.append(tensors.get("sequence", np.ones((len(images[-1]), 1), np.float32)))
    if not spec.uses_rnn:
        return np.concatenate(images), np.concatenate(sequences)
    # the recurrent weights are read once a step for all rows: one batch of everything is many times faster
    rnn = model.get_layer("rnn")(np.concatenate(sequences), training=False)
    return np.concatenate(images), np.asarray(rnn)


def probabilities(model: Model, images: Array, sequences: Array) -> Array:
    """(N, C), from the branches' features by the model's own head, in NumPy."""
    kernel, bias = model.get_layer("logits").get_weights()
    logits = (images * sequences) @ kernel + bias
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


def fill_recurrent(rnn: Model, seed: int) -> None:
    """Keras's own distributions, except that the recurrent kernel is normal: orthogonal takes ten seconds."""
    rng = np.random.default_rng(seed)
    for layer in _recurrent_layers(rnn):
        kernel, recurrent, bias = layer.get_weights()
        limit = np.sqrt(6 / sum(kernel.shape))
        if isinstance(layer, keras.layers.LSTM):
            bias[layer.units : 2 * layer.units] = 1
        kernel = rng.uniform(-limit, limit, kernel.shape).astype(np.float32)
        recurrent = rng.standard_normal(recurrent.shape, np.float32) / np.float32(np.sqrt(layer.units))
        layer.set_weights([kernel, recurrent, bias])


def _recurrent_layers(rnn: Model) -> Iterator[Model]:
    """Yield the LSTMs and GRUs, those of both directions too."""
    for layer in rnn.layers:
        if isinstance(layer, keras.layers.Bidirectional):
            yield from (layer.forward_layer, layer.backward_layer)
        elif isinstance(layer, (keras.layers.LSTM, keras.layers.GRU)):
            yield layer


def _reestimate(cnn: Model, spec: ModelSpec, frames: Sequence[Frame]) -> None:
    """BatchNorm's moving statistics become the plain mean of those of every batch."""
    norms = [layer for layer in cnn.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if norms:
        for number, tensors in enumerate(_batches(spec, frames)):
            for layer in norms:
                layer.momentum = number / (number + 1)
            cnn(tensors["image"], training=True)


def _fit_head(images: Array, sequences: Array, classes: int, pairs: int, seed: int) -> list[Array]:
    """Kernel and bias that tell cluster x cluster apart, fitted on images with their own and with others' sequences.

    Standardization and principal components are folded into the kernel; that few components are kept bounds how much
    the head amplifies rounding in the features (its terms are some ten times larger than their sum).
    """
    alone = sequences.shape[1] == 1
    groups = 1 if alone else max(divisor for divisor in range(1, int(classes**0.5) + 1) if classes % divisor == 0)
    other = np.zeros(len(images), int) if alone else _clusters(sequences, groups, seed)
    labels = _clusters(images, classes // groups, seed), other
    own, rng = np.arange(len(images)), np.random.default_rng(seed)
    left, right = (np.concatenate([own, rng.integers(0, len(own), 0 if alone else pairs)]) for _ in range(2))
    products = images[left] * sequences[right]
    mean, deviation = products.mean(axis=0), products.std(axis=0) + 1e-9
    pca = PCA(
        min(COMPONENTS, len(products) // 4, products.shape[1]), whiten=True, svd_solver="randomized", random_state=seed
    )
    reduced = pca.fit_transform((products - mean) / deviation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: the labels are our own
        fitted = LogisticRegression(max_iter=ITERATIONS).fit(reduced, labels[0][left] * groups + labels[1][right])
    kernel = (pca.components_.T / np.sqrt(pca.explained_variance_)) @ fitted.coef_.T / deviation[:, None]
    bias = fitted.intercept_ - mean @ kernel  # the components' own mean is zero
    return _all_classes(fitted.classes_, kernel, bias, classes)


def _all_classes(present: npt.NDArray[Any], kernel: Array, bias: Array, classes: int) -> list[Array]:
    """The head with a column for every class; one that was never seen is never predicted."""
    all_kernel = np.zeros((len(kernel), classes), np.float32)
    all_bias = np.full(classes, bias.min() - 5, np.float32)
    all_kernel[:, present], all_bias[present] = kernel, bias
    return [all_kernel, all_bias]


def _clusters(features: Array, count: int, seed: int) -> npt.NDArray[Any]:
    standard = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    reduced = PCA(count + 6, random_state=seed).fit_transform(standard)
    return np.asarray(KMeans(count, n_init=4, random_state=seed).fit_predict(reduced))


def _batches(spec: ModelSpec, frames: Sequence[Frame]) -> Iterator[dict[str, Array]]:
    preprocessor = Preprocessor(spec)
    for start in range(0, len(frames), BATCH):
        yield preprocessor(frames[start : start + BATCH])
