"""Finds the preprocessing that a model was trained with, by trying each plausible one on labelled images.

A wrong one is the commonest silent fault of a deployed classifier: it runs, and answers nonsense. Each that is tried is
judged by the accuracy that Keras itself reaches, and what is close to the best one by the log probability of the label.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ...runtime.errors import DataError
from ...runtime.preprocess import Preprocessor, read_image
from ...runtime.spec import Channels, ModelSpec, Scaling
from ...train.data import LabelledImage
from .adopted_model import AdoptedModel

BATCH = 8
LEAST, MOST = 16, 128  # images that every preprocessing is tried on
SECONDS = 10.0  # after which no further images are tried
FAR = 0.05  # of accuracy: what a better preprocessing must gain to be worth a warning, and twice its own uncertainty
SCALINGS: tuple[Scaling, ...] = ("xception", "unit", "torch", "caffe", "raw")
Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TriedPreprocessing:
    """One preprocessing, and what Keras makes of labelled images through it.

    Attributes:
        right: (M,) bool, whether the first label is the image's own.
        log_probability: the mean natural logarithm of the own label's probability.
        answers: (M,) the number of the first label.
    """

    scaling: Scaling
    channels: Channels
    right: npt.NDArray[np.bool_]
    log_probability: float
    answers: npt.NDArray[np.int64]

    @property
    def name(self) -> str:
        """Such as ``caffe bgr``."""
        return f"{self.scaling} {self.channels}"

    @property
    def accuracy(self) -> float:
        """The share of images whose first label is their own, 0 to 1."""
        return float(self.right.mean())

    def beats(self, other: TriedPreprocessing) -> bool:
        """Whether its accuracy is higher by more than chance and ``FAR`` explain, on the same images."""
        gain = self.right.astype(float) - other.right
        uncertainty = 2 * float(gain.std()) / np.sqrt(len(gain))
        return bool(gain.mean() > max(FAR, uncertainty))


def candidates(channels: Channels | None, scaling: Scaling | None, gray: bool) -> list[tuple[Scaling, Channels]]:
    """List the preprocessings to try; those that were stated come first, the others beside them for comparison."""
    orders: tuple[Channels, ...] = ("gray",) if gray else ("rgb", "bgr")
    every = [pair for pair in product(SCALINGS, orders) if not gray or pair[0] not in ("torch", "caffe")]
    stated = [pair for pair in every if scaling in (None, pair[0]) and channels in (None, pair[1])]
    return stated + [pair for pair in every if pair not in stated]


def try_each(
    adopted: AdoptedModel, spec: ModelSpec, pairs: Sequence[tuple[Scaling, Channels]], images: Sequence[LabelledImage]
) -> list[TriedPreprocessing]:
    """Run Keras on the same labelled images through each preprocessing, ``LEAST`` to ``MOST`` of them.

    The images are those whose label is one of the spec's, the classes taking turns; one that can't be read must have
    been left out.
    """
    numbers = {label: number for number, label in enumerate(spec.class_labels)}
    known = [image for image in images if image.label in numbers][:MOST]
    if not known:
        raise DataError("expected images in folders named by label to try preprocessings on, found none")
    preprocessors = [Preprocessor(spec.replace(scaling=scaling, channels=channels)) for scaling, channels in pairs]
    found: list[list[Tensor]] = [[] for _ in pairs]
    start, done = time.monotonic(), 0
    for batch in _batches(known):
        frames = [read_image(image.path) for image in batch]
        for own, preprocessor in zip(found, preprocessors, strict=True):
            own.append(adopted.probabilities(preprocessor(frames)["image"]))
        done += len(batch)
        if done >= LEAST and time.monotonic() - start > SECONDS:
            break
    labels = np.array([numbers[image.label] for image in known[:done]])
    return [_judged(*pair, np.concatenate(own), labels) for pair, own in zip(pairs, found, strict=True)]


def _batches(images: Sequence[LabelledImage]) -> Iterator[Sequence[LabelledImage]]:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def _judged(
    scaling: Scaling, channels: Channels, probabilities: Tensor, labels: npt.NDArray[np.int64]
) -> TriedPreprocessing:
    answers = probabilities.argmax(axis=1)
    own = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    return TriedPreprocessing(scaling, channels, answers == labels, float(np.log(own).mean()), answers)


def best_of(tried: Sequence[TriedPreprocessing]) -> TriedPreprocessing:
    """Return the one of the highest accuracy; among those that chance could have put below it, the surest one."""
    top = max(tried, key=lambda item: (item.accuracy, item.log_probability))
    return max((item for item in tried if not top.beats(item)), key=lambda item: item.log_probability)
