"""Looks inside a Keras model while it classifies one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt

from ...runtime.frame import Pixels
from ...runtime.preprocess import Preprocessor
from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from ..gates.hidden_states import hidden_states

Tensor = npt.NDArray[np.float32]

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

    ``frame`` is the image as it was read, (H, W, 3) uint8 BGR, and ``image`` the model's input, (S, S, 3) in [-1, 1],
    RGB. ``maps`` are the outputs of the CNN's first layers and its last one, empty without a CNN; ``cnn``, (F,), and
    ``recurrent`` are None where the model lacks that branch. ``joined``, (F,), is what the head gets: the product of
    the branches' outputs, or the output of the only one. The head's ``weights`` are (F, C); ``logits`` and
    ``probabilities`` (C,).
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
    found = _run(model, ["logits", "probabilities", *(["sequence"] if spec.uses_rnn else [])], image)
    maps, cnn = _look_into_cnn(model.get_layer("cnn"), image) if spec.uses_cnn else ((), None)
    recurrent = _look_into_rnn(model, spec, found["sequence"], cnn) if spec.uses_rnn else None
    vectors = [vector for vector in (cnn, recurrent.vector if recurrent else None) if vector is not None]
    return Insides(
        spec=spec,
        frame=frame,
        image=image[0],
        maps=maps,
        cnn=cnn,
        recurrent=recurrent,
        joined=np.prod(vectors, axis=0),
        weights=np.asarray(model.get_layer("logits").kernel, np.float32),
        logits=found["logits"][0],
        probabilities=found["probabilities"][0],
    )


def _look_into_cnn(cnn: KerasModel, image: Tensor) -> tuple[tuple[FeatureMaps, ...], Tensor]:
    names = list(_activations(cnn))
    shown = [*names[:FIRST_MAPS], *names[FIRST_MAPS:][-1:]]
    found = _run(cnn, [*shown, cnn.layers[-1].name], image)
    return tuple(FeatureMaps(name, found[name][0]) for name in shown), found[cnn.layers[-1].name][0]


def _activations(cnn: KerasModel) -> Iterator[str]:
    """Yield the names of the activation layers whose output is a picture, (N, H, W, C)."""
    for layer in cnn.layers:
        kinds = (keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU)
        if isinstance(layer, kinds) and len(layer.output.shape) == 4:
            yield layer.name


def _look_into_rnn(model: KerasModel, spec: ModelSpec, sequence: Tensor, cnn: Tensor | None) -> Recurrent:
    hidden = hidden_states(model, spec, sequence)[0]
    value = hidden
    with keras.device("cpu:0"):
        for layer in model.get_layer("rnn").layers[1 + spec.rnn_layers :]:  # those behind its recurrent layers
            value = layer(value, training=False)
        vectors = np.asarray(value, np.float32)
        joined = vectors if cnn is None else vectors * cnn
        answers = model.get_layer("probabilities")(model.get_layer("logits")(joined))
    return Recurrent(sequence[0], hidden, vectors[-1], np.asarray(answers, np.float32))


def _run(model: KerasModel, names: list[str], image: Tensor) -> dict[str, Tensor]:
    part = keras.Model(model.input, {name: model.get_layer(name).output for name in names})
    with keras.device("cpu:0"):
        return {name: np.asarray(value, np.float32) for name, value in part(image, training=False).items()}
