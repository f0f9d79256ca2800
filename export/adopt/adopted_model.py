"""Brings somebody else's Keras classifier into our shape: ``image`` in, ``logits`` and ``probabilities`` out.

What the model's last layer gives is found out: a softmax or a sigmoid there is taken off, so that variants can be
compared by what is before it. ``AdoptedModel.original_scores`` still gives what the file's model gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...runtime.errors import ModelFileError
from ...train.model import KerasModel

Scores = Literal["softmax", "sigmoid", "logits", "probabilities"]
SCORES: dict[Scores, str] = {
    "softmax": "probabilities, by a softmax inside the model",
    "sigmoid": "the probability of the second of two classes, by a sigmoid inside the model",
    "logits": "logits: no softmax is inside the model, and one is put behind it",
    "probabilities": "probabilities, made otherwise than by a softmax: their logarithms stand for logits",
}
SHAPE_LAYERS = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Identity, keras.layers.Dropout)
NORMALIZING = (keras.layers.Rescaling, keras.layers.Normalization)
TRIED = 4  # images of noise that tell probabilities from logits
SUM_TOLERANCE = 1e-3
SMALLEST = 1e-30  # of a probability whose logarithm is taken
Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AdoptedModel:
    """A model in our shape, and what it was.

    Attributes:
        model: its input is ``image`` (N, S, S, C) float32, its layers ``logits`` and ``probabilities`` (N, K).
        scores: what its own last layer gives.
        normalizes: the name of the layer inside that scales raw pixels; empty where there is none.
    """

    model: KerasModel
    scores: Scores
    normalizes: str
    _original: Callable[[Tensor], Tensor]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of the image that it takes, (S, S, C)."""
        height, width, channels = self.model.input.shape[1:]
        return int(height), int(width), int(channels)

    @property
    def num_classes(self) -> int:
        """The number of classes, K; a model with one score has two."""
        return int(self.model.output.shape[-1])

    @cached_property
    def probabilities(self) -> Callable[[Tensor], Tensor]:
        """Runs the model on (N, S, S, C): (N, K). It is traced once; called layer by layer, an LSTM takes a second."""
        signature = [tf.TensorSpec((None, *self.image_shape), tf.float32)]
        run = tf.function(lambda image: self.model(image, training=False), input_signature=signature)
        return lambda image: np.asarray(run(image), np.float32)

    def original_scores(self, image: Tensor) -> Tensor:
        """Run the file's own model on (N, S, S, C); return its scores, (N, K), of one score the two probabilities."""
        found = self._original(image)
        return np.concatenate([1 - found, found], axis=1) if self.scores == "sigmoid" else found


def in_our_shape(source: KerasModel, image_size: int | None = None) -> AdoptedModel:
    """Wrap a Keras model of one image and one vector of scores; its layers are shared with what is returned.

    ``image_size`` is S for a model that takes images of any size. An image without a channel axis, (N, S, S), is a gray
    one.

    Raises:
        ModelFileError: the model takes something else than one square image, or gives something else than the scores
            of classes that exclude each other.
    """
    shape = _image_shape(source, image_size)
    image = keras.Input(shape, name="image")
    flat = len(source.inputs[0].shape) == 3
    taken = keras.layers.Reshape(shape[:2], name="pixels")(image) if flat else image
    plain = keras.Model(image, source(taken))
    width = _width(source)
    removal = _Removal.of(source)
    scores: Scores = removal.kind if removal else _kind_of_scores(plain, width)
    if scores == "softmax" and width == 1:
        raise ModelFileError("expected scores of two classes or more, found a softmax of one, which is always 1")
    if scores == "sigmoid" and width > 1:
        raise ModelFileError(
            f"expected classes that exclude each other (a softmax), found {width} sigmoids, which is a classifier of "
            "several labels an image: it can't be shown as one label; train it with a softmax"
        )

    def original(values: Tensor) -> Tensor:
        if removal is None:
            return np.asarray(plain(values, training=False), np.float32)
        with removal.undone():
            return np.asarray(plain(values, training=False), np.float32)

    if removal is not None:
        removal.apply()
    logits = _logits(source(taken), scores, width)
    probabilities = keras.layers.Softmax(name="probabilities", dtype="float32")(logits)
    return AdoptedModel(keras.Model(image, probabilities, name="adopted"), scores, _normalizer(source), original)


def _image_shape(source: KerasModel, image_size: int | None) -> tuple[int, int, int]:
    if len(source.inputs) != 1 or len(source.outputs) != 1:
        raise ModelFileError(
            f"expected a model of one image and one vector of scores, found {len(source.inputs)} inputs and "
            f"{len(source.outputs)} outputs"
        )
    found = tuple(source.inputs[0].shape[1:])
    height, width, channels = (*found, 1) if len(found) == 2 else found if len(found) == 3 else (0, 0, 0)
    if channels not in (1, 3):
        help_ = "; channels come last" if len(found) == 3 and found[0] in (1, 3) else ""
        raise ModelFileError(
            f"expected a model of one image (N, S, S, 3) or (N, S, S, 1), found (N, {_listed(found)}){help_}"
        )
    if None in (height, width) and image_size is None:
        raise ModelFileError("the model takes images of any size: say which with --image-size")
    height, width = int(height or image_size or 0), int(width or image_size or 0)
    if image_size is not None and (height, width) != (image_size, image_size):
        raise ModelFileError(f"--image-size {image_size}: the model takes {height}x{width}, so leave it out")
    if height != width:
        raise ModelFileError(f"expected a model of square images, found {height}x{width}: train it on a square")
    return height, width, channels


def _listed(shape: tuple[int | None, ...]) -> str:
    return ", ".join("any" if side is None else str(side) for side in shape)


def _width(source: KerasModel) -> int:
    shape = tuple(source.outputs[0].shape[1:])
    if len(shape) != 1 or not shape[0]:
        raise ModelFileError(f"expected one vector of class scores (N, K), found (N, {_listed(shape)})")
    return int(shape[0])


class _Removal:
    """A softmax or sigmoid at a model's end, which can be taken off and put back."""

    def __init__(self, operation: Any, attribute: str, kind: Scores) -> None:
        self.kind = kind
        self._operation = operation
        self._attribute = attribute
        self._own = getattr(operation, attribute)

    @classmethod
    def of(cls, source: KerasModel) -> _Removal | None:
        """Find it, through layers that only change the shape; None where the model ends otherwise."""
        kinds: dict[Any, Scores] = {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}
        for operation in _from_the_end(source):
            activation = kinds.get(getattr(operation, "activation", None))
            if activation:
                return cls(operation, "activation", activation)
            kind = type(operation).__name__.lower()
            if kind in ("softmax", "sigmoid") and getattr(operation, "axis", -1) in (-1, 1):
                return cls(operation, "call", "softmax" if kind == "softmax" else "sigmoid")
            if not isinstance(operation, SHAPE_LAYERS):
                break
        return None

    def apply(self) -> None:
        """Take it off."""
        setattr(self._operation, self._attribute, lambda value, *_, **__: value)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Have it back for as long as this is open."""
        setattr(self._operation, self._attribute, self._own)
        try:
            yield
        finally:
            self.apply()


def _from_the_end(model: KerasModel) -> Iterator[Any]:
    """Yield what made a model's output, then what made its input, and so on; of a model inside it its own layers."""
    tensor = model.outputs[0]
    while True:
        operation, node_index, _ = tensor._keras_history  # Keras's only way from a tensor to its maker
        if isinstance(operation, keras.Model):
            yield from _from_the_end(operation)
            return
        yield operation
        taken = operation._inbound_nodes[node_index].input_tensors
        if not taken:
            return
        tensor = taken[0]


def _kind_of_scores(plain: KerasModel, width: int) -> Scores:
    """Tell logits from probabilities by numbers, on noise in the two ranges that models are trained with."""
    if width == 1:
        return "logits"
    noise = np.random.default_rng(0).uniform(-1, 1, (TRIED, *plain.input.shape[1:])).astype(np.float32)
    found = np.concatenate([np.asarray(plain(values, training=False)) for values in (noise, 127.5 * (noise + 1))])
    found = found[np.isfinite(found).all(axis=1)]  # what is far from the model's own pixels may overflow in it
    if not len(found):
        return "logits"
    sums = found.sum(axis=1)
    return "probabilities" if found.min() >= 0 and np.abs(sums - 1).max() < SUM_TOLERANCE else "logits"


def _logits(scores: Any, kind: Scores, width: int) -> Any:
    """Make the logits, (N, K), of what a model gives without its softmax or sigmoid."""
    if width == 1:  # x against 0: their softmax is 1 - sigmoid(x) and sigmoid(x)
        both = keras.layers.Dense(2, use_bias=False, name="logits", dtype="float32")
        logits = both(scores)
        both.set_weights([np.array([[0.0, 1.0]], np.float32)])
        return logits
    if kind == "probabilities":
        scores = keras.ops.log(keras.ops.maximum(scores, SMALLEST))
    return keras.layers.Activation("linear", name="logits", dtype="float32")(scores)


def _normalizer(source: KerasModel) -> str:
    """Name the layer that scales pixels before the first one with weights; empty where there is none."""
    for layer in _layers(source):
        if isinstance(layer, NORMALIZING):
            return str(layer.name)
        if layer.weights:
            return ""
    return ""


def _layers(model: KerasModel) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
