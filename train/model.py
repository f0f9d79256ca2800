"""Builds the Keras model of a ModelSpec: two branches, what joins them, a Dense head.

Its one input is ``image`` (N, S, S, 3) float32, scaled as the spec says; the model derives the ``sequence`` from it
with built-in layers, as ``runtime.preprocess`` does with OpenCV. Both branches are nested models (``cnn`` and ``rnn``),
so that each can be converted, frozen or replaced by itself.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
from keras import layers

from ..runtime.errors import SpecError
from ..runtime.spec import Merge, ModelSpec
from .backbones import BACKBONES, projected_width

KerasModel = Any  # keras ships no type information
JOINS: dict[Merge, tuple[str, Any]] = {
    "multiply": ("product", layers.Multiply),
    "add": ("sum", layers.Add),
    "concatenate": ("concatenation", layers.Concatenate),
}


def build_model(spec: ModelSpec, *, empty: bool = False) -> KerasModel:
    """Build the model ``image`` (N, S, S, 3) -> ``probabilities`` (N, C) of a spec of two class labels or more.

    Its weights are random. It has nested models ``cnn`` and ``rnn``, those its branches use, and a Dense layer
    ``logits``. ``empty`` leaves the recurrent layers at zero, for weights that are loaded next: the orthogonal
    initialization of two LSTM(2048) takes ten seconds.

    Raises:
        SpecError: the spec has fewer than two class labels, or is that of an adopted model.
    """
    if spec.adopted:
        raise SpecError("expected the spec of a model of ours, with branches, found that of an adopted one")
    if spec.num_classes < 2:
        raise SpecError(f"a classifier needs at least two class labels, found {spec.num_classes}")
    image = keras.Input(spec.image_shape, name="image")
    features: dict[str, Any] = {}
    if spec.uses_cnn:
        features["cnn"] = _build_cnn(spec)(image)
    if spec.uses_rnn:
        features["rnn"] = _build_rnn(spec, empty)(_sequence(image, spec))
    return keras.Model(image, _head(features, spec), name="hybrid_edge")


def recurrent_layers(model: KerasModel, spec: ModelSpec) -> list[Any]:
    """Return the recurrent layers of a model of ``spec``, the first one first."""
    rnn = model.get_layer("rnn")
    return [rnn.get_layer(f"{spec.cell}_{number}") for number in range(1, spec.rnn_layers + 1)]


def leaf_layers(layer: Any) -> list[Any]:
    """Return the layers of a model, also those of models in it, that hold no other layers; of such a layer, itself."""
    children = getattr(layer, "layers", None)
    return [leaf for child in children for leaf in leaf_layers(child)] if children else [layer]


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
        name, _ = JOINS[spec.merge]
        joined = model.get_layer(name)([cnn, model.get_layer("rnn")(inputs["sequence"])])
    outputs = model.get_layer("probabilities")(model.get_layer("logits")(joined))
    return keras.Model(inputs, outputs, name="head")


def build_application(spec: ModelSpec, weights: Literal["imagenet"] | None = None) -> KerasModel:
    """Build the spec's backbone from ``keras.applications``, (N, S, S, 3) -> (N, F), for images scaled already.

    It raises what Keras raises where ImageNet's weights can't be had.
    """
    facts = BACKBONES[spec.backbone]
    options = {"include_preprocessing": False} if facts.scales_itself else {}
    build = getattr(keras.applications, facts.application)
    cnn = build(weights=weights, include_top=False, pooling="avg", input_shape=spec.image_shape, **options)
    cnn.name = "cnn"  # not as an argument: some take their size or the weights' file from their name
    return cnn


def _build_cnn(spec: ModelSpec) -> KerasModel:
    """Build the CNN branch: ``image`` (N, S, S, 3) -> features, (N, 2048) for Xception, (N, 128) for digits."""
    if spec.backbone != "digits":
        return build_application(spec)
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
    """Derive the sequence, (N, T, S*S/T), from ``image`` (N, S, S, 3): the mean over the channels, in rows or patches.

    Averaging over the "steps" of a channels-first sequence is the mean over the last axis, by a built-in layer that a
    saved file can name. The layers are always float32, as the sequence is an input and no activation.
    """
    pixels = layers.Reshape((spec.image_size**2, 3), name="pixels", dtype="float32")(image)
    gray = layers.GlobalAveragePooling1D(data_format="channels_first", name="grayscale", dtype="float32")(pixels)
    if spec.sequence_order == "patches":
        side = math.isqrt(spec.timesteps)
        edge = spec.image_size // side
        grid = layers.Reshape((side, edge, side, edge), name="grid", dtype="float32")(gray)
        gray = layers.Permute((1, 3, 2, 4), name="patches", dtype="float32")(grid)
    return layers.Reshape(spec.sequence_shape, name="sequence", dtype="float32")(gray)


def _build_rnn(spec: ModelSpec, empty: bool) -> KerasModel:
    """Build the recurrent branch; its output is projected to the other branch's width where they are to be alike."""
    sequence = keras.Input(spec.sequence_shape)
    value = sequence
    for number in range(1, spec.rnn_layers + 1):
        value = _recurrent_layer(spec, number, empty)(value)
    if spec.rnn_batch_norm:
        value = layers.BatchNormalization(name="rnn_batch_norm")(value)
    if width := projected_width(spec):
        value = layers.Dense(width, name="projection")(value)
    return keras.Model(sequence, value, name="rnn")


def _recurrent_layer(spec: ModelSpec, number: int, empty: bool) -> Any:
    """Make layer ``number``, from 1 on; all but the last give their states of every step."""
    options: dict[str, Any] = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"} if empty else {}
    options["return_sequences"] = number < spec.rnn_layers
    if spec.cell == "gru":
        return layers.GRU(spec.rnn_units, name=f"gru_{number}", **options)
    lstm = layers.LSTM(spec.rnn_units, name=f"lstm_{number}", **options)
    return lstm if spec.cell == "lstm" else layers.Bidirectional(lstm, name=f"bilstm_{number}")


def _head(features: dict[str, Any], spec: ModelSpec) -> Any:
    joined = next(iter(features.values()))
    if len(features) == 2:
        name, join = JOINS[spec.merge]
        joined = join(name=name)([features["cnn"], features["rnn"]])
    logits = layers.Dense(spec.num_classes, name="logits", dtype="float32")(joined)
    return layers.Softmax(name="probabilities", dtype="float32")(logits)
