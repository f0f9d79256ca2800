"""Computes the figures of a comparison: a variant's outputs beside Keras's, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...train.data import LabelledImage

__all__ = ["CONFIDENT_MARGIN", "Comparison", "Flip"]

Tensor = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

CONFIDENT_MARGIN = 0.1  # between Keras's first two probabilities


@dataclass(frozen=True)
class Flip:
    """An image that Keras and the variant give different first labels.

    Attributes:
        image: the image's file and its true label, which may be empty.
        keras_label: Keras's first label.
        keras_probability: the probability that Keras gives its label, 0 to 1.
        variant_label: the variant's first label.
        variant_probability: the probability that the variant gives its label, 0 to 1.
        margin: the difference of Keras's first two probabilities: the wider, the worse the flip.
    """

    image: LabelledImage
    keras_label: str
    keras_probability: float
    variant_label: str
    variant_probability: float
    margin: float


@dataclass(frozen=True, eq=False)
class Comparison:
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
        """List the images whose first label differs, the widest margin first.

        Args:
            images: the N images of the rows.
            classes: the names of the C classes.
        """
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
            margin=float(self.margins[row]),
        )


def _first(logits: Tensor, depth: int) -> Labels:
    """Return the labels of the ``depth`` largest logits, (N, depth)."""
    return np.asarray(np.argsort(-logits, axis=1, kind="stable")[:, :depth], np.int64)
