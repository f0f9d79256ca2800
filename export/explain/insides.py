"""Looks inside a Keras model while it classifies one image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ...runtime.frame import Pixels
from ...runtime.preprocess import Preprocessor
from ...runtime.spec import Merge, ModelSpec
from ...train.model import KerasModel
from ..gates.hidden_states import hidden_states

Tensor = npt.NDArray[np.float32]

FEATURES = "features"
FIRST_MAPS = 3  # so many of the CNN's first activations are kept, and the last one


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """The output of one of the CNN's layers: the layer's name, and the values, (H, W, C) float32."""

    layer: str
    values: Tensor


@dataclass(frozen=True, eq=False)
class Recurrent:
    """What the recurrent branch does with the image.

    Attributes:
        sequence: the branch's input, (T, S*S/T), computed from the image by the model itself.
        hidden: the last recurrent layer's hidden state after each step, (T, H); two directions' beside each other, each
            in the order of its own steps.
        vector: the branch's output, (F,): the last hidden state, normalized and projected where the model does so.
        answers: the model's probabilities had the sequence ended after each step, or both directions stopped there,
            (T, C); the last row is its answer.
    """

    sequence: Tensor
    hidden: Tensor
    vector: Tensor
    answers: Tensor


@dataclass(frozen=True, eq=False)
class Insides:
    """What a model makes of one image; all values but the frame's are float32.

    ``frame`` is the image as it was read, (H, W, 3) uint8 BGR, and ``image`` the model's input, (S, S, 3), RGB, scaled
    as its spec says. ``maps`` are the outputs of the CNN's first layers and its last one, empty without a CNN; ``cnn``,
    (F,), and ``recurrent`` are None where the model lacks that branch. ``joined``, (F,), is what the head gets: the
    branches' outputs joined as the spec says, or the output of the only one. The head's ``weights`` are (F, C);
    ``logits`` and ``probabilities`` (C,).
    """

    spec: ModelSpec
    frame: Pixels
    image: Tensor
    maps: tuple[FeatureMaps, ...]
    cnn: Tensor | None
    recurrent: Recurrent | None
    joined: Tensor
    weights: Tensor
    logits: Tensor
    probabilities: Tensor

    @property
    def ranking(self) -> list[int]:
        """The indices of the classes, the most probable first."""
        return [int(index) for index in np.argsort(-self.probabilities, kind="stable")]

    @property
    def evidence(self) -> Tensor:
        """What each feature adds to the first class's logit beyond what it adds to the second's, (F,).

        Together with the difference of the two biases this adds up to the difference of the two logits.
        """
        first, second = self.ranking[:2]
        return np.asarray(self.joined * (self.weights[:, first] - self.weights[:, second]), np.float32)


def look_inside(model: KerasModel, spec: ModelSpec, frame: Pixels) -> Insides:
    """Classify one image, (H, W, 3) uint8 BGR of any size, with Keras on the CPU and keep what happened on the way."""
    tensors = {"image": np.empty((1, *spec.image_shape), np.float32)}
    Preprocessor(spec).fill(frame, tensors, 0)
    image = tensors["image"]
    names = ["logits", "probabilities", *(["sequence"] if spec.uses_rnn else [])]
    found = _run(model, {name: model.get_layer(name).output for name in names}, image)
    maps, cnn = _look_into_cnn(model.get_layer("cnn"), image) if spec.uses_cnn else ((), None)
    recurrent = _look_into_rnn(model, spec, found["sequence"], cnn) if spec.uses_rnn else None
    return Insides(
        spec=spec,
        frame=frame,
        image=image[0],
        maps=maps,
        cnn=cnn,
        recurrent=recurrent,
        joined=_joined(cnn, recurrent.vector if recurrent else None, spec.merge),
        weights=np.asarray(model.get_layer("logits").kernel, np.float32),
        logits=found["logits"][0],
        probabilities=found["probabilities"][0],
    )


def _joined(cnn: Tensor | None, recurrent: Tensor | None, merge: Merge) -> Tensor:
    """Join the branches' outputs as the model does: (F,) of the CNN, (F,) or (T, F) of the recurrent branch."""
    given = [vector for vector in (cnn, recurrent) if vector is not None]
    if cnn is None or recurrent is None:
        return given[0]
    if merge == "concatenate":
        return np.concatenate([np.broadcast_to(cnn, (*recurrent.shape[:-1], len(cnn))), recurrent], axis=-1)
    return cnn * recurrent if merge == "multiply" else cnn + recurrent


def _look_into_cnn(cnn: KerasModel, image: Tensor) -> tuple[tuple[FeatureMaps, ...], Tensor]:
    maps = dict(_activations(cnn))
    last = dict([_averaged(cnn) or list(maps.items())[-1]])
    first = [(name, output) for name, output in maps.items() if name not in last]
    shown = dict(first[:FIRST_MAPS]) | last
    found = _run(cnn, {**shown, FEATURES: cnn.output}, image)
    return tuple(FeatureMaps(name, found[name][0]) for name in shown), found[FEATURES][0]


def _activations(cnn: KerasModel) -> Iterator[tuple[str, Any]]:
    """Yield name and output of the activation layers that give pictures, (N, H, W, C), of more than one pixel."""
    for layer in cnn.layers:
        kinds = (keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU)
        if not isinstance(layer, kinds) or getattr(layer, "activation", None) is keras.activations.linear:
            continue
        shape = layer.output.shape
        if len(shape) == 4 and math.prod(shape[1:3]) > 1:
            yield layer.name, layer.output


def _averaged(cnn: KerasModel) -> tuple[str, Any] | None:
    """Return name and output of the step whose pictures are averaged to the CNN's features; None without an average."""
    for layer in reversed(cnn.layers):
        if isinstance(layer, keras.layers.GlobalAveragePooling2D):
            return next((step.name, step.output) for step in cnn.operations if step.output is layer.input)
    return None


def _look_into_rnn(model: KerasModel, spec: ModelSpec, sequence: Tensor, cnn: Tensor | None) -> Recurrent:
    hidden = hidden_states(model, spec, sequence)[0]
    value = hidden
    with keras.device("cpu:0"):
        for layer in model.get_layer("rnn").layers[1 + spec.rnn_layers :]:  # those behind its recurrent layers
            value = layer(value, training=False)
        vectors = np.asarray(value, np.float32)
        joined = _joined(cnn, vectors, spec.merge)
        answers = model.get_layer("probabilities")(model.get_layer("logits")(joined))
    return Recurrent(sequence[0], hidden, vectors[-1], np.asarray(answers, np.float32))


def _run(model: KerasModel, outputs: dict[str, Any], image: Tensor) -> dict[str, Tensor]:
    part = keras.Model(model.input, outputs)
    with keras.device("cpu:0"):
        return {name: np.asarray(value, np.float32) for name, value in part(image, training=False).items()}
