"""Measures the Keras model's own answers on the gate's images, once, to compare every variant with them.

Keras gets ``image`` alone and computes its own sequence; a variant gets both inputs from the preprocessing, as on a
device. So what is compared is the whole path, not two copies of one input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...runtime.errors import DataError, ImageError, ParityError
from ...runtime.frame import Pixels
from ...runtime.preprocess import Preprocessor, read_image
from ...runtime.spec import ModelSpec
from ...train.data import LabelledImage
from ...train.model import KerasModel
from .hidden_states import hidden_states

__all__ = ["BATCH", "HIDDEN_IMAGES", "Reference"]

Tensor = npt.NDArray[np.float32]
Tensors = dict[str, Tensor]

BATCH = 8
HIDDEN_IMAGES = 32  # 23 x 32 x 2048 floats at full size: 6 MB


@dataclass(frozen=True, eq=False)
class Reference:
    """What Keras gives for the N images that could be read, in the order that was asked for.

    Attributes:
        logits: the logits, (N, C) float32, finite.
        probabilities: the probabilities, (N, C) float32.
        sequence_error: the largest |difference| between the preprocessing's sequence and Keras's own; None without a
            recurrent branch.
        hidden: (T, M, H) float32, the last LSTM's hidden state after every timestep, for the first M images; None
            without a recurrent branch.
        skipped: the images that could not be read, with the reasons.
        measured_on: the version of Keras and its device, such as ``Keras 3.15.1 on CPU``.
    """

    spec: ModelSpec
    images: tuple[LabelledImage, ...]
    logits: Tensor
    probabilities: Tensor
    sequence_error: float | None
    hidden: Tensor | None
    skipped: tuple[str, ...] = ()
    measured_on: str = f"Keras {keras.__version__} on CPU"

    @classmethod
    def of(
        cls,
        model: KerasModel,
        spec: ModelSpec,
        images: Sequence[LabelledImage],
        *,
        hidden_images: int = HIDDEN_IMAGES,
        on_batch: Callable[[int], None] | None = None,
    ) -> Reference:
        """Run Keras on the CPU over all images, in batches of 8, streamed; an unreadable image is passed over.

        The hidden states of the first ``hidden_images`` are kept; ``on_batch`` gets each batch's number of images.

        Raises:
            ParityError: Keras itself gives NaN or infinity.
            DataError: none of the images can be read.
        """
        gathered = _Gathered()
        run = _Keras(model, spec)
        for rows, tensors in _batches(images, spec, gathered.skipped):
            found = run(tensors["image"])
            if spec.uses_rnn and len(gathered.images) < hidden_images:
                gathered.hidden.append(run.hidden(found["sequence"]))
            gathered.add(rows, tensors, found)
            if on_batch:
                on_batch(len(rows))
        if not gathered.images:
            raise DataError(f"expected images to compare with Keras on, found none of {len(images)} readable")
        return cls(
            spec=spec,
            images=tuple(gathered.images),
            logits=np.concatenate(gathered.logits),
            probabilities=np.concatenate(gathered.probabilities),
            sequence_error=gathered.sequence_error if spec.uses_rnn else None,
            hidden=np.concatenate(gathered.hidden, axis=1)[:, :hidden_images] if gathered.hidden else None,
            skipped=tuple(gathered.skipped),
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Keras's first label of each image, (N,)."""
        return np.asarray(np.argmax(self.logits, axis=1), np.int64)

    def batches(self, count: int | None = None) -> Iterator[Tensors]:
        """Yield the spec's inputs of the first ``count`` images (None: of all), read again, up to 8 rows at a time.

        Raises:
            ImageError: an image that could be read can't be read any more.
        """
        preprocessor = Preprocessor(self.spec)
        images = iter(self.images[:count])
        while rows := list(islice(images, BATCH)):
            yield preprocessor([read_image(image.path) for image in rows])


class _Keras:
    """Runs the Keras model on the CPU for its sequence, logits and probabilities, and for its hidden states."""

    def __init__(self, model: KerasModel, spec: ModelSpec) -> None:
        names = ["sequence"] if spec.uses_rnn else []
        outputs = {name: model.get_layer(name).output for name in (*names, "logits", "probabilities")}
        part = keras.Model(model.input, outputs)
        # traced once: at full size half the time and half the memory of calling the model, at 71 x 71 an eighth
        signature = [tf.TensorSpec((None, *spec.image_shape), tf.float32)]
        self._run = tf.function(lambda image: part(image, training=False), input_signature=signature)
        self._model = model
        self._spec = spec

    def __call__(self, image: Tensor) -> Tensors:
        with keras.device("cpu:0"):  # a GPU would bring TF32
            found = {name: np.asarray(value) for name, value in self._run(image).items()}
        if not np.isfinite(found["logits"]).all():
            raise ParityError(
                "expected finite logits from the Keras model, found NaN or infinity: the training diverged; "
                "train again with a lower learning rate"
            )
        return found

    def hidden(self, sequence: Tensor) -> Tensor:
        """Return the last LSTM's hidden states (T, N, H) for a sequence (N, T, S*S/T)."""
        return hidden_states(self._model, self._spec, sequence).transpose(1, 0, 2)


@dataclass
class _Gathered:
    """The results of the batches so far: some KB for hundreds of images, and the hidden states."""

    images: list[LabelledImage] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    sequence_error: float = 0.0

    def add(self, rows: Sequence[LabelledImage], tensors: Tensors, found: Tensors) -> None:
        self.images += rows
        self.logits.append(found["logits"])
        self.probabilities.append(found["probabilities"])
        if "sequence" in found:
            error = float(np.abs(found["sequence"] - tensors["sequence"]).max())
            self.sequence_error = max(self.sequence_error, error)


def _batches(
    images: Sequence[LabelledImage], spec: ModelSpec, skipped: list[str]
) -> Iterator[tuple[list[LabelledImage], Tensors]]:
    """Yield up to 8 images and their tensors: ``image``, which Keras always takes, and the spec's inputs."""
    preprocessor = Preprocessor(spec)
    readable = _readable(images, skipped)
    while chunk := list(islice(readable, BATCH)):
        tensors = {"image": np.empty((len(chunk), *spec.image_shape), np.float32), **preprocessor.allocate(len(chunk))}
        for row, (_, frame) in enumerate(chunk):
            preprocessor.fill(frame, tensors, row)
        yield [image for image, _ in chunk], tensors


def _readable(images: Sequence[LabelledImage], skipped: list[str]) -> Iterator[tuple[LabelledImage, Pixels]]:
    for image in images:
        frame = _read(image, skipped)
        if frame is not None:
            yield image, frame


def _read(image: LabelledImage, skipped: list[str]) -> Pixels | None:
    try:
        return read_image(image.path)
    except ImageError as error:
        skipped.append(str(error))
        return None
