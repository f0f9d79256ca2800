"""Builds the Keras model of a ModelSpec: two branches, their product, a Dense head.

Its one input is ``image`` (N, S, S, 3) float32 in [-1, 1]; the model derives the ``sequence`` from it with built-in
layers, as ``runtime.preprocess`` does with OpenCV. Both branches are nested models (``cnn`` and ``rnn``), so that each
can be converted, frozen or replaced by itself.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from ..runtime.errors import SpecError
from ..runtime.spec import ModelSpec

KerasModel = Any  # keras ships no type information


def build_model(spec: ModelSpec, *, empty: bool = False) -> KerasModel:
    """Build the model ``image`` (N, S, S, 3) -> ``probabilities`` (N, C) of a spec of two class labels or more.

    Its weights are random. It has nested models ``cnn`` and ``rnn``, those its branches use, and a Dense layer
    ``logits``. ``empty`` leaves the LSTMs at zero, for weights that are loaded next: the orthogonal initialization of
    two LSTM(2048) takes ten seconds.
    """
    if spec.num_classes < 2:
        raise SpecError(f"a classifier needs at least two class labels, found {spec.num_classes}")
    image = keras.Input(spec.image_shape, name="image")
    features: dict[str, Any] = {}
    if spec.uses_cnn:
        features["cnn"] = _build_cnn(spec)(image)
    if spec.uses_rnn:
        width = None if "cnn" not in features else features["cnn"].shape[-1]
        features["rnn"] = _build_rnn(spec, width, empty)(_sequence(image, spec))
    return keras.Model(image, _head(features, spec), name="hybrid_edge")


def build_head_model(model: KerasModel, spec: ModelSpec) -> KerasModel:
    """Make a model of the part behind a model's CNN, with the same layers; it trains while the CNN is frozen.

    Its inputs are ``features`` (N, F), the CNN branch's output, and, for a hybrid, ``sequence`` (N, T, S*S/T); its
    output is ``probabilities`` (N, C).
    """
    cnn = keras.Input(model.get_layer("cnn").output_shape[1:], name="features")
    inputs = {"features": cnn}
    joined = cnn
    if spec.uses_rnn:
        inputs["sequence"] = keras.Input(spec.sequence_shape, name="sequence")
        joined = model.get_layer("product")([cnn, model.get_layer("rnn")(inputs["sequence"])])
    outputs = model.get_layer("probabilities")(model.get_layer("logits")(joined))
    return keras.Model(inputs, outputs, name="head")


def _build_cnn(spec: ModelSpec) -> KerasModel:
    """Build the CNN branch: ``image`` (N, S, S, 3) -> features, (N, 2048) for Xception, (N, 128) for digits."""
    if spec.backbone == "xception":
        return keras.applications.Xception(
            weights=None, include_top=False, pooling="avg", input_shape=spec.image_shape, name="cnn"
        )
    image = keras.Input(spec.image_shape)
    value = image
    # every layer is named: Keras numbers those without a name by what else the process has built
    for number, (filters, dropout) in enumerate(((32, 0.25), (64, 0.25), (128, 0.4)), start=1):
        value = layers.Conv2D(filters, 3, padding="same", name=f"conv_{number}")(value)
        value = layers.LeakyReLU(0.1, name=f"conv_{number}_activation")(value)
        value = layers.MaxPooling2D(2, padding="same", name=f"conv_{number}_pool")(value)
        value = layers.Dropout(dropout, name=f"conv_{number}_dropout")(value)
    value = layers.Dense(128, name="dense")(layers.Flatten(name="flatten")(value))
    value = layers.LeakyReLU(0.1, name="dense_activation")(value)
    value = layers.Dropout(0.3, name="dense_dropout")(value)
    return keras.Model(image, value, name="cnn")


def _sequence(image: Any, spec: ModelSpec) -> Any:
    """Derive the sequence, (N, T, S*S/T), from ``image`` (N, S, S, 3): the mean over the channels, row-major.

    Averaging over the "steps" of a channels-first sequence is the mean over the last axis, by a built-in layer that a
    saved file can name. The layers are always float32, as the sequence is an input and no activation.
    """
    pixels = layers.Reshape((spec.image_size**2, 3), name="pixels", dtype="float32")(image)
    gray = layers.GlobalAveragePooling1D(data_format="channels_first", name="grayscale", dtype="float32")(pixels)
    return layers.Reshape(spec.sequence_shape, name="sequence", dtype="float32")(gray)


def _build_rnn(spec: ModelSpec, width: int | None, empty: bool) -> KerasModel:
    """Build the recurrent branch; its output is projected to ``width``, the other branch's, where that differs."""
    sequence = keras.Input(spec.sequence_shape)
    value = sequence
    start = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"} if empty else {}
    for layer in range(1, spec.rnn_layers + 1):
        sequences = layer < spec.rnn_layers
        value = layers.LSTM(spec.rnn_units, return_sequences=sequences, name=f"lstm_{layer}", **start)(value)
    if spec.rnn_batch_norm:
        value = layers.BatchNormalization(name="rnn_batch_norm")(value)
    if width is not None and width != spec.rnn_units:
        value = layers.Dense(width, name="projection")(value)
    return keras.Model(sequence, value, name="rnn")


def _head(features: dict[str, Any], spec: ModelSpec) -> Any:
    joined = next(iter(features.values()))
    if len(features) == 2:
        joined = layers.Multiply(name="product")([features["cnn"], features["rnn"]])
    logits = layers.Dense(spec.num_classes, name="logits", dtype="float32")(joined)
    return layers.Softmax(name="probabilities", dtype="float32")(logits)
