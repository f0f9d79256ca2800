"""Measures the Keras model's own answers on the gate's images, once, to compare every variant with them.

Keras gets ``image`` alone and computes its own sequence; a variant gets both inputs from the preprocessing, as on a
device. So what is compared is the whole path, not two copies of one input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...runtime.errors import DataError, ParityError
from ...runtime.preprocess import Preprocessor, read_image
from ...runtime.spec import ModelSpec
from ...train.data import LabelledImage
from ...train.model import KerasModel
from ..export_request import readable
from .hidden_states import hidden_states

Tensor = npt.NDArray[np.float32]
Tensors = dict[str, Tensor]

BATCH = 8
HIDDEN_IMAGES = 32  # 23 x 32 x 2048 floats at full size: 6 MB


@dataclass(frozen=True, eq=False)
class Reference:
    """What Keras gives for the N images that could be read, in the order that was asked for.

    Attributes:
        logits: (N, C) float32, finite; ``probabilities`` likewise.
        sequence_error: the largest |difference| between the preprocessing's sequence and Keras's own; None without a
            recurrent branch.
        hidden: (T, M, H) float32, the last recurrent layer's hidden state after every timestep, for M images; None
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
        """
        run = _Keras(model, spec)
        kept: list[LabelledImage] = []
        found: dict[str, list[Tensor]] = {"logits": [], "probabilities": [], "hidden": []}
        skipped: list[str] = []
        sequence_error = 0.0
        for rows, tensors in _batches(images, spec, skipped):
            outputs = run(tensors["image"])
            if spec.uses_rnn:
                sequence_error = max(sequence_error, float(np.abs(outputs["sequence"] - tensors["sequence"]).max()))
                if len(kept) < hidden_images:
                    found["hidden"].append(hidden_states(model, spec, outputs["sequence"]).transpose(1, 0, 2))
            for name in ("logits", "probabilities"):
                found[name].append(outputs[name])
            kept += rows
            if on_batch:
                on_batch(len(rows))
        if not kept:
            raise DataError(f"expected images to compare with Keras on, found none of {len(images)} readable")
        return cls(
            spec=spec,
            images=tuple(kept),
            logits=np.concatenate(found["logits"]),
            probabilities=np.concatenate(found["probabilities"]),
            sequence_error=sequence_error if spec.uses_rnn else None,
            hidden=np.concatenate(found["hidden"], axis=1)[:, :hidden_images] if spec.uses_rnn else None,
            skipped=tuple(skipped),
        )

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, count: int | None = None, batch: int = BATCH) -> Iterator[Tensors]:
        """Yield the spec's inputs of the first ``count`` images (None: of all), read again, ``batch`` rows at a time.

        The last batch may have fewer.
        """
        preprocessor = Preprocessor(self.spec)
        images = iter(self.images[:count])
        while rows := list(islice(images, batch)):
            yield preprocessor([read_image(image.path) for image in rows])


class _Keras:
    """Runs the Keras model on the CPU for its sequence, logits and probabilities."""

    def __init__(self, model: KerasModel, spec: ModelSpec) -> None:
        names = ["sequence"] if spec.uses_rnn else []
        outputs = {name: model.get_layer(name).output for name in (*names, "logits", "probabilities")}
        part = keras.Model(model.input, outputs)
        # traced once: at full size half the time and half the memory of calling the model, at 71 x 71 an eighth
        signature = [tf.TensorSpec((None, *spec.image_shape), tf.float32)]
        self._run = tf.function(lambda image: part(image, training=False), input_signature=signature)

    def __call__(self, image: Tensor) -> Tensors:
        with keras.device("cpu:0"):  # a GPU would bring TF32
            found = {name: np.asarray(value) for name, value in self._run(image).items()}
        if not np.isfinite(found["logits"]).all():
            raise ParityError(
                "expected finite logits from the Keras model, found NaN or infinity: the training diverged; "
                "train again with a lower learning rate"
            )
        return found


def _batches(
    images: Sequence[LabelledImage], spec: ModelSpec, skipped: list[str]
) -> Iterator[tuple[list[LabelledImage], Tensors]]:
    """Yield up to 8 images and their tensors: ``image``, which Keras always takes, and the spec's inputs."""
    preprocessor = Preprocessor(spec)
    frames = readable(images, skipped)
    while chunk := list(islice(frames, BATCH)):
        tensors = {"image": np.empty((len(chunk), *spec.image_shape), np.float32), **preprocessor.allocate(len(chunk))}
        for row, (_, frame) in enumerate(chunk):
            preprocessor.fill(frame, tensors, row)
        yield [image for image, _ in chunk], tensors
