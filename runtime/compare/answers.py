"""Hold the answers of several models to the same images, and count how they compare."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..frame import Frame

if TYPE_CHECKING:
    from ..classifier import Classifier, Prediction


@dataclass(frozen=True, eq=False)
class ComparedModel:
    """This is one of the compared models: its name, the path of its bundle as it was given, its open classifier."""

    name: str
    path: str
    classifier: Classifier


@dataclass(frozen=True, eq=False)
class Answers:
    """This is one image, and each model's prediction, by the model's name.

    ``truth`` is the image's class, where its folder is named after one; else None.
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


class ComparisonTally:
    """This class gathers answers; its memory grows by two numbers an image and model."""

    def __init__(self, models: Sequence[ComparedModel]) -> None:
        self.unreadable = 0
        self._models = models
        self._numbers = {label: number for number, label in enumerate(models[0].classifier.labels)}
        self._truth = array("l")
        self._labels = [array("l") for _ in models]
        self._times = [array("d") for _ in models]

    def add(self, answers: Answers | Frame) -> None:
        """Count one image's answers, or a frame that could not be read."""
        if isinstance(answers, Frame):
            self.unreadable += 1
            return
        self._truth.append(-1 if answers.truth is None else self._numbers[answers.truth])
        for model, labels, times in zip(self._models, self._labels, self._times, strict=True):
            prediction = answers.predictions[model.name]
            labels.append(self._numbers[prediction.label])
            times.append(prediction.preprocess_ms + prediction.inference_ms)

    def figures(self) -> dict[str, Any]:
        """Return the figures so far, under the names that the JSON has for them.

        Shares are 0 to 1, times milliseconds of an image as its share of its batch, from decoded frame to
        probabilities. What needs labelled images is None where there are none, and all but counts without images.
        """
        labels, truth = np.array(self._labels), np.array(self._truth)  # (models, images), (images,)
        right, labelled = labels == truth, int((truth >= 0).sum())
        same = (labels == labels[0]).all(axis=0)
        alone = right & (right.sum(axis=0) == 1)
        return {
            "images": len(truth),
            "labelled": labelled,
            "unreadable": self.unreadable,
            "same": int(same.sum()),
            "same_right": int((same & right[0]).sum()) if labelled else None,
            "models": [
                {
                    **_identity(model),
                    "accuracy": int(right[row].sum()) / labelled if labelled else None,
                    "right": int(right[row].sum()) if labelled else None,
                    "only_right": int(alone[row].sum()) if labelled else None,
                    "agreement": {
                        other.name: _share(labels[row] == theirs)
                        for other, theirs in zip(self._models, labels, strict=True)
                    },
                    "p50_ms": _percentile(self._times[row], 50),
                    "p90_ms": _percentile(self._times[row], 90),
                }
                for row, model in enumerate(self._models)
            ],
        }


def _identity(model: ComparedModel) -> dict[str, Any]:
    selection = model.classifier.selection
    return {
        "name": model.name,
        "bundle": model.path,
        "branches": model.classifier.spec.branches,
        "variant": selection.variant.name,
        "device": selection.backend.device,
        "bytes": selection.variant.file.size,
    }


def _share(true: Any) -> float | None:
    return int(true.sum()) / len(true) if len(true) else None


def _percentile(times: array[float], percent: int) -> float | None:
    return round(float(np.percentile(times, percent)), 4) if times else None
