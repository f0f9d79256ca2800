"""Adopts a model: reads the file, finds the preprocessing that it was trained with, and proves both on real images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...runtime.errors import DataError, ModelFileError, ParityError, UsageError
from ...runtime.preprocess import Preprocessor, read_image
from ...runtime.spec import Channels, ModelSpec, Scaling
from ...train.data import LabelledImage
from ...train.model import KerasModel
from ...train.model_file import weights_sha256
from ..step_log import StepLog
from .adopted_model import SCORES, AdoptedModel, in_our_shape
from .adoption import Adoption
from .find_scaling import SCALINGS, TriedPreprocessing, best_of, candidates, try_each
from .load_keras import load_keras
from .model_files import ForeignFile
from .saved_model import load_saved_model

SAME = 1e-5  # of a probability: float32 arithmetic in the same order, but for the softmax
ORDER_GAIN = 0.2  # of accuracy: what another order of the labels must gain to be told
RARE_ORDER: dict[Scaling, Channels] = {name: "rgb" if name == "caffe" else "bgr" for name in SCALINGS}
ORDER_IMAGES = 6  # of a label, for telling what the model answers to it
ORDER_LEAST = 0.5  # of the images must agree with an order
LISTED = 5


@dataclass(frozen=True, eq=False)
class Adopted:
    """A model in our shape with its spec.

    ``weights`` is the SHA-256 of its weights and its configuration, and ``record`` says for the report what it was and
    how its preprocessing was found.
    """

    model: KerasModel
    spec: ModelSpec
    weights: str
    record: dict[str, Any]


def adopt(adoption: Adoption, images: Sequence[LabelledImage], log: StepLog) -> Adopted:
    """Load a model and find its preprocessing on images of which the first 8 can be read.

    Raises:
        ModelFileError: the file's model is not one image to one vector of exclusive classes.
        DataError: the labels are not as many as the scores, in another order, or no preprocessing fits the images.
        UsageError: nothing says what the preprocessing is.
    """
    found = adoption.file
    with log.step("load the Keras model"):
        source = load_saved_model(found.path, found) if found.kind == "saved_model" else load_keras(found.path, found)
        try:
            adopted = in_our_shape(source, adoption.image_size)
        except ModelFileError as error:
            raise ModelFileError(f"{found.path}: {error}") from None
    log.say(f"          its scores are {SCORES[adopted.scores]}")
    if len(adoption.labels) != adopted.num_classes:
        raise DataError(
            f"expected {adopted.num_classes} labels, as the model has so many scores, found {len(adoption.labels)}: "
            f"{', '.join(adoption.labels[:LISTED])}{', …' * (len(adoption.labels) > LISTED)}"
        )
    choice = _Choice(adoption, adopted, images, log)
    spec = choice.spec()
    _prove_same(adopted, spec, images)
    record = {
        "file": found.path.name,
        "written_by": found.written_by,
        "scores": SCORES[adopted.scores],
        "scales_inside": adopted.normalizes,
        "accuracy_by_preprocessing": choice.accuracies,
    }
    return Adopted(adopted.model, spec, _sha256(adopted, found), record)


def _sha256(adopted: AdoptedModel, found: ForeignFile) -> str:
    """Hash weights and configuration: two models of the same weights may compute different things."""
    return hashlib.sha256(f"{weights_sha256(adopted.model)}{found.configuration}".encode()).hexdigest()


def _prove_same(adopted: AdoptedModel, spec: ModelSpec, images: Sequence[LabelledImage]) -> None:
    """Compare the model in our shape with the file's own on real images."""
    if adopted.scores == "logits":
        return  # nothing was taken off
    tensor = Preprocessor(spec)([read_image(image.path) for image in images[:8]])["image"]
    difference = float(np.abs(adopted.probabilities(tensor) - adopted.original_scores(tensor)).max())
    if not difference <= SAME:
        raise ParityError(
            f"the model without its {adopted.scores} gives other probabilities than with it: expected a difference of "
            f"at most {SAME:g}, found {difference:.3g}"
        )


class _Choice:
    """Chooses the preprocessing from what was stated, what is inside the model, and what labelled images show."""

    def __init__(
        self, adoption: Adoption, adopted: AdoptedModel, images: Sequence[LabelledImage], log: StepLog
    ) -> None:
        self._adoption = adoption
        self._adopted = adopted
        self._log = log
        self._gray = adopted.image_shape[2] == 1
        known = set(adoption.labels)
        self._images = [image for image in images if image.label in known]
        self.accuracies: dict[str, float] = {}  # of Keras, by each preprocessing that was tried

    def spec(self) -> ModelSpec:
        """Return the spec; what was found, and how, is said."""
        adoption, inside = self._adoption, self._adopted.normalizes
        if (adoption.channels == "gray") != self._gray and adoption.channels is not None:
            raise UsageError(
                f"--channels {adoption.channels}: the model takes {self._adopted.image_shape[2]} channels a pixel"
            )
        scaling: Scaling | None = adoption.scaling or ("raw" if inside else None)
        if inside and adoption.scaling not in (None, "raw"):
            self._warn(f"the model scales pixels itself (its layer {inside}): --scaling {scaling} comes on top of that")
        elif inside:
            self._log.say(f"          its layer {inside} scales raw pixels: scaling raw")
        if self._images:
            return self._tried(scaling)
        if scaling is None:
            raise UsageError(
                "how the model's pixels were scaled can't be found out without labelled images: put the images of "
                f"--images into folders named by label, or state --scaling {'|'.join(SCALINGS)}"
            )
        channels = adoption.channels or ("gray" if self._gray else "bgr" if scaling == "caffe" else "rgb")
        self._warn(f"preprocessing {scaling} {channels} is untried, as no image has a label")
        return self._base(scaling, channels)

    def _base(self, scaling: Scaling, channels: Channels) -> ModelSpec:
        adoption = self._adoption
        return ModelSpec.make(
            branches="adopted",
            image_size=self._adopted.image_shape[0],
            channels=channels,
            scaling=scaling,
            resize=adoption.resize,
            interpolation=adoption.interpolation,
            class_labels=adoption.labels,
        )

    def _tried(self, scaling: Scaling | None) -> ModelSpec:
        pairs = candidates(self._adoption.channels, scaling, self._gray)
        with self._log.step(f"try {len(pairs)} preprocessings"):
            tried = try_each(self._adopted, self._base("raw", "gray" if self._gray else "rgb"), pairs, self._images)
        top, count = best_of(tried), len(tried[0].right)
        allowed = [item for item in tried if self._allows(item, scaling)]
        chosen = best_of(allowed)
        usual = [
            item for item in allowed if item.scaling == chosen.scaling and item.channels != RARE_ORDER[item.scaling]
        ]
        if usual and not chosen.beats(usual[0]):
            chosen = usual[0]  # nothing speaks for the rarer order of the channels
        order = sorted(tried, key=lambda item: -item.accuracy)
        self.accuracies = {item.name: item.accuracy for item in order}
        self._log.say(f"          on {count} images Keras is right with")
        for item in order:
            marks = "  <- taken" if item is chosen else ""
            self._log.say(f"          {item.name:13}{item.accuracy:6.1%}{marks}")
        self._refuse_other_order(tried, top.accuracy)
        as_good = sorted({item.scaling for item in tried if not chosen.beats(item)} - {chosen.scaling})
        if scaling is None and as_good:
            self._log.say(
                f"          {chosen.scaling} is surest; {', '.join(as_good)} can't be told from it "
                "on these images: state --scaling if it is known"
            )
        chance = 1 / len(self._adoption.labels)
        if top.accuracy < chance + 2 * np.sqrt(chance * (1 - chance) / count):
            self._warn(
                f"no preprocessing makes more of these images than guessing would ({top.accuracy:.1%} right): are they "
                "of the classes that the model knows, and its labels in the order of training?"
            )
        elif top.beats(chosen):
            self._warn(
                f"preprocessing {chosen.name} gives {chosen.accuracy:.1%} where {top.name} gives {top.accuracy:.1%}: "
                f"was the model trained with --scaling {top.scaling} --channels {top.channels}?"
            )
        return self._base(chosen.scaling, chosen.channels)

    def _allows(self, item: TriedPreprocessing, scaling: Scaling | None) -> bool:
        return scaling in (None, item.scaling) and self._adoption.channels in (None, item.channels)

    def _refuse_other_order(self, tried: Sequence[TriedPreprocessing], accuracy: float) -> None:
        """Refuse labels whose order is not the scores': under one preprocessing the answers go with other labels."""
        labels = self._adoption.labels
        own = np.array([labels.index(image.label) for image in self._images[: len(tried[0].answers)]])
        order, agreeing = max((_likely_order(own, item.answers, len(labels)) for item in tried), key=lambda it: it[1])
        if agreeing < ORDER_LEAST or agreeing <= accuracy + ORDER_GAIN:
            return
        shown = [f"images of {labels[one]!r} are called {labels[said]!r}" for one, said in order.items() if one != said]
        raise DataError(
            f"the labels are in another order than the model's scores: of {len(own)} images {accuracy:.1%} at most get "
            f"their own label, and {agreeing:.1%} one that goes with it: {'; '.join(shown[:LISTED])}. Give labels in "
            "the order of training (Keras sorts the folders' names)"
        )

    def _warn(self, text: str) -> None:
        self._log.say(f"warning: {text}", style="yellow")


def _likely_order(
    own: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], labels: int
) -> tuple[dict[int, int], float]:
    """Tell which answer goes with which label, one to one, and the share of images that agree with that, 0 to 1.

    The share is 0 where there are too few images to tell: with a few of each, chance alone finds an order.
    """
    if len(own) < ORDER_IMAGES * labels:
        return {}, 0.0
    counts = np.zeros((labels, labels), np.int64)
    np.add.at(counts, (own, answers), 1)
    order: dict[int, int] = {}
    agreeing = 0
    for cell in np.argsort(-counts, axis=None, kind="stable"):  # the pairs that are seen most come first
        label, answer = divmod(int(cell), labels)
        if label not in order and answer not in order.values() and counts[label, answer]:
            order[label] = answer
            agreeing += int(counts[label, answer])
    return order, agreeing / len(own)
