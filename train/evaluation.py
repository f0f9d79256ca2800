"""Measures a model on labelled images: top-1, top-5, each class's rates, the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.console import progress
from .batches import Batches
from .model import KerasModel

__all__ = ["Evaluation", "evaluate"]

SMALLEST = 1e-7  # to which Keras clips probabilities before the logarithm, too


@dataclass(frozen=True)
class Evaluation:
    """The probabilities of N images over C classes, (N, C) float32, and the images' true classes, (N,) int32."""

    probabilities: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int32]

    @property
    def ranks(self) -> npt.NDArray[np.int64]:
        """How many classes are ahead of the true one, (N,): 0 for a correct first answer, C where the answer is NaN."""
        own = np.take_along_axis(self.probabilities, self.truth[:, None].astype(np.int64), axis=1)
        ties = self.probabilities[:, :] == own
        before = np.arange(self.probabilities.shape[1])[None, :] < self.truth[:, None]
        ahead = (self.probabilities > own).sum(axis=1) + (ties & before).sum(axis=1)
        finite = np.isfinite(self.probabilities).all(axis=1)  # NaN is never greater: it would rank first
        return np.asarray(np.where(finite, ahead, self.probabilities.shape[1]), dtype=np.int64)

    def top(self, k: int) -> float:
        """Return the share of images whose true class is among the k likeliest, 0 to 1."""
        return float((self.ranks < k).mean())

    @property
    def loss(self) -> float:
        """The mean categorical cross-entropy."""
        own = self.probabilities[np.arange(len(self.truth)), self.truth]
        return float(-np.log(np.clip(own, SMALLEST, 1.0)).mean())

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """The counts of answers, (C, C): rows are true classes, columns are answers."""
        classes = self.probabilities.shape[1]
        matrix = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(matrix, (self.truth, self.probabilities.argmax(axis=1)), 1)
        return matrix

    def class_rates(self, labels: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return each class's number of images and its top-1 and top-5 rates, which are None without images."""
        ranks = self.ranks
        rates = []
        for number, label in enumerate(labels):
            own = ranks[self.truth == number]
            rates.append(
                {
                    "label": label,
                    "images": len(own),
                    "top1": float((own < 1).mean()) if len(own) else None,
                    "top5": float((own < 5).mean()) if len(own) else None,
                }
            )
        return rates

    def value(self, monitor: str) -> float:
        """Return the number that a phase monitors: ``val_loss``, ``val_accuracy`` or ``val_top5``."""
        if monitor == "val_loss":
            return self.loss
        return self.top(1 if monitor == "val_accuracy" else 5)


def evaluate(model: KerasModel, batches: Batches, what: str = "validation") -> Evaluation:
    """Run a model in inference mode over all batches.

    Args:
        model: takes inputs as the batches give them, and gives probabilities (N, C).
        batches: one pass over labelled images.
        what: the progress bar's text.
    """
    parts = []
    count = batches.num_batches or 0
    with progress(unit="batches", transient=True) as bar:
        task = bar.add_task(what, total=count)
        for index in range(count):
            parts.append(np.asarray(model.predict_on_batch(batches[index][0]), dtype=np.float32))
            bar.advance(task)
    return Evaluation(np.concatenate(parts), batches.targets)
