"""Computes the figures of a variant's outputs beside Keras's, on the same images, and of the accuracy of both."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...runtime.manifest import Accuracy
from ...train.data import LabelledImage

Tensor = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

CONFIDENT_MARGIN = 0.1  # between Keras's first two probabilities
NORMAL_QUANTILE = 1.959963984540054  # the quantile of the normal distribution, 95 % two-sided


@dataclass(frozen=True)
class Flip:
    """An image that Keras and the variant give different first labels; its true label may be empty.

    Probabilities are 0 to 1.
    """

    image: LabelledImage
    keras_label: str
    keras_probability: float
    variant_label: str
    variant_probability: float


@dataclass(frozen=True, eq=False)
class KerasComparison:
    """Both sides' outputs for N images: ``expected_...`` is Keras's, ``found_...`` the variant's, (N, C) float32."""

    expected_logits: Tensor
    found_logits: Tensor
    expected_probabilities: Tensor
    found_probabilities: Tensor

    @property
    def scale(self) -> float:
        """The largest |logit| of Keras."""
        return max(float(np.abs(self.expected_logits).max()), float(np.finfo(np.float32).tiny))

    @property
    def logit_error(self) -> float:
        """The largest |difference| of a logit / the largest |logit| of Keras."""
        return float(np.abs(self.found_logits - self.expected_logits).max()) / self.scale

    @property
    def probability_errors(self) -> Tensor:
        """The |difference| of each probability, (N, C)."""
        return np.asarray(np.abs(self.found_probabilities - self.expected_probabilities), np.float32)

    @property
    def expected_labels(self) -> Labels:
        """Keras's first labels, (N,)."""
        return _first(self.expected_logits, 1)[:, 0]

    @property
    def found_labels(self) -> Labels:
        """The variant's first labels, (N,)."""
        return _first(self.found_logits, 1)[:, 0]

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        """Whether both sides give an image the same first label, (N,)."""
        return np.equal(self.expected_labels, self.found_labels)

    @property
    def margins(self) -> Tensor:
        """The difference of Keras's first two probabilities, (N,)."""
        first_two = np.partition(self.expected_probabilities, -2, axis=1)[:, -2:]
        return first_two[:, 1] - first_two[:, 0]

    @property
    def confident(self) -> npt.NDArray[np.bool_]:
        """Whether Keras's margin is above 0.1, (N,)."""
        return self.margins > CONFIDENT_MARGIN

    @property
    def top5_overlap(self) -> float:
        """The mean share of common labels among the first five, or among all classes where there are fewer."""
        depth = min(5, self.expected_logits.shape[1])
        first, second = (_first(logits, depth) for logits in (self.expected_logits, self.found_logits))
        return float((first[:, :, None] == second[:, None, :]).any(axis=2).mean())

    def flips(self, images: Sequence[LabelledImage], classes: Sequence[str]) -> tuple[Flip, ...]:
        """List the images whose first label differs, the widest margin (the worst) first; ``images`` has the N."""
        rows = np.flatnonzero(~self.same)
        order = rows[np.argsort(-self.margins[rows], kind="stable")]
        return tuple(self._flip(row, images[row], classes) for row in order.tolist())

    def _flip(self, row: int, image: LabelledImage, classes: Sequence[str]) -> Flip:
        expected, found = int(self.expected_labels[row]), int(self.found_labels[row])
        return Flip(
            image=image,
            keras_label=classes[expected],
            keras_probability=float(self.expected_probabilities[row, expected]),
            variant_label=classes[found],
            variant_probability=float(self.found_probabilities[row, found]),
        )


def _first(logits: Tensor, depth: int) -> Labels:
    return np.asarray(np.argsort(-logits, axis=1, kind="stable")[:, :depth], np.int64)


def paired_accuracy(
    keras: npt.NDArray[np.int64],
    variant: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    max_drop: float | None = None,
) -> Accuracy:
    """Compute the top-1 accuracy of both sides, and the drop from Keras to the variant with its 95 % interval.

    The labels are (N,), N >= 1; ``max_drop`` is the limit that is recorded with the drop.
    """
    right, still = keras == truth, variant == truth
    count, lost, gained = len(truth), int((right & ~still).sum()), int((~right & still).sum())
    low, high = paired_interval(lost, gained, count)
    return Accuracy(
        keras=int(right.sum()) / count,
        variant=int(still.sum()) / count,
        # computed from the counts: the difference of two rounded shares would put 1 of 200 above a limit of 0.005
        drop=(lost - gained) / count,
        drop_low=low,
        drop_high=high,
        max_drop=max_drop,
    )


def paired_interval(lost: int, gained: int, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of (lost - gained) / count, by Bonett and Price's adjusted Wald method.

    Of ``count`` images, at least 1, only Keras has ``lost`` right, and only the variant ``gained``. One image is added
    to either side of the disagreement. So the interval keeps a width where nothing disagrees, where Wald's and
    Newcombe's shrink to nothing: 0 of 300 says "at most 0.9 points", not "none". D. G. Bonett, R. M. Price, J. Educ.
    Behav. Stat. 37 (2012) 479; recommended for small samples by M. W. Fagerland, S. Lydersen, P. Laake, Stat. Med. 33
    (2014) 2850.
    """
    total = count + 2
    first, second = (lost + 1) / total, (gained + 1) / total
    middle = first - second
    half = NORMAL_QUANTILE * float(np.sqrt((first + second - middle**2) / total))
    return max(-1.0, middle - half), min(1.0, middle + half)


def class_indices(labels: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the index of each label among the classes, -1 where it is none of them; (N,) int64.

    Names are compared in NFC: a folder's may come in another form than that in which the model was trained.
    """
    index = {unicodedata.normalize("NFC", name): number for number, name in enumerate(classes)}
    return np.array([index.get(unicodedata.normalize("NFC", label), -1) for label in labels], np.int64)
