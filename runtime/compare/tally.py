"""Count the answers of several models to the same images, as they come."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..frame import Frame

if TYPE_CHECKING:
    from ..classifier import Prediction

__all__ = ["Answers", "Comparison", "Figures", "Tally"]


@dataclass(frozen=True, eq=False)
class Answers:
    """This is one image, and what each model says about it.

    Attributes:
        frame: the image.
        truth: the image's class, where its folder is named after one; else None.
        predictions: each model's prediction, by the model's name.
    """

    frame: Frame
    truth: str | None
    predictions: Mapping[str, Prediction]

    @property
    def same(self) -> bool:
        """Whether all models give the same first label."""
        return len({prediction.label for prediction in self.predictions.values()}) == 1

    @property
    def contradiction(self) -> float:
        """The lower probability of the surest two models that contradict each other; 0 where all agree."""
        best: dict[str, float] = {}
        for prediction in self.predictions.values():
            best[prediction.label] = max(best.get(prediction.label, 0.0), prediction.probability)
        return sorted(best.values())[-2] if len(best) > 1 else 0.0


@dataclass(frozen=True)
class Figures:
    """These are the figures of one model over all images.

    Attributes:
        right: the number of images whose class the model named; None where no image's class is known.
        alone: the number of these that no other model got right; None as for ``right``.
        agreement: for each model, itself included, the share of images with the same first label, 0 to 1; None
            without images.
        p50_ms: the median milliseconds of an image, as its share of its batch, from decoded frame to probabilities; NaN
            without images.
        p90_ms: the 90th percentile of the same times.
    """

    right: int | None
    alone: int | None
    agreement: Mapping[str, float | None]
    p50_ms: float
    p90_ms: float


@dataclass(frozen=True)
class Comparison:
    """These figures compare what several models say about the same images.

    Attributes:
        images: the number of images that could be read.
        labelled: the number of these whose class is known by their folder's name.
        unreadable: the number of files that could not be read.
        same: the number of images on which all models agree.
        same_right: the number of these with the right label; None where no image's class is known.
        models: each model's figures, by name.
    """

    images: int
    labelled: int
    unreadable: int
    same: int
    same_right: int | None
    models: Mapping[str, Figures]

    @property
    def differing(self) -> int:
        """The number of images on which not all models agree."""
        return self.images - self.same

    def accuracy(self, name: str) -> float | None:
        """Return a model's share of right first labels among the labelled images, 0 to 1; None where there are none."""
        right = self.models[name].right
        return None if right is None else right / self.labelled


@dataclass
class Tally:
    """This class counts answers; its memory grows by one number an image and model, for the percentiles.

    Attributes:
        names: the models' names.
        unreadable: the number of files that could not be read, counted by the caller.
    """

    names: Sequence[str]
    unreadable: int = 0
    _images: int = 0
    _labelled: int = 0
    _same: int = 0
    _same_right: int = 0
    _pairs: dict[tuple[str, str], int] = field(default_factory=dict)
    _right: dict[str, int] = field(default_factory=dict)
    _alone: dict[str, int] = field(default_factory=dict)
    _times: dict[str, array[float]] = field(default_factory=dict)

    def add(self, answers: Answers) -> None:
        """Count one image's answers."""
        labels = {name: prediction.label for name, prediction in answers.predictions.items()}
        self._images += 1
        self._same += answers.same
        for name, prediction in answers.predictions.items():
            times = self._times.setdefault(name, array("d"))
            times.append(prediction.preprocess_ms + prediction.inference_ms)
            for other, label in labels.items():
                self._pairs[name, other] = self._pairs.get((name, other), 0) + (label == labels[name])
        if answers.truth is not None:
            self._add_truth([name for name, label in labels.items() if label == answers.truth])

    def result(self) -> Comparison:
        """Return the figures so far."""
        return Comparison(
            self._images,
            self._labelled,
            self.unreadable,
            self._same,
            self._same_right if self._labelled else None,
            {name: self._figures(name) for name in self.names},
        )

    def _add_truth(self, right: Sequence[str]) -> None:
        self._labelled += 1
        self._same_right += len(right) == len(self.names)
        for name in right:
            self._right[name] = self._right.get(name, 0) + 1
        if len(right) == 1:
            self._alone[right[0]] = self._alone.get(right[0], 0) + 1

    def _figures(self, name: str) -> Figures:
        times = np.asarray(self._times.get(name, array("d", [np.nan])))
        p50, p90 = (float(value) for value in np.percentile(times, (50, 90)))
        return Figures(
            self._right.get(name, 0) if self._labelled else None,
            self._alone.get(name, 0) if self._labelled else None,
            {other: self._agreement(name, other) for other in self.names},
            p50,
            p90,
        )

    def _agreement(self, name: str, other: str) -> float | None:
        return self._pairs.get((name, other), 0) / self._images if self._images else None
