"""Runs a variant against Keras on real images and measures every figure that its gate has a limit for.

Beside the comparison with Keras it measures how a batch's rows change when they are run in other batches, beside other
rows, or with other sequences.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...runtime.backends.base import Backend
from ...runtime.errors import BackendError, ParityError
from ...runtime.manifest import Accuracy, Parity, Precision, Temperature
from .comparison import Flip, KerasComparison, class_indices, paired_accuracy, paired_interval
from .reference import BATCH, Reference
from .temperature import Labels, measure_temperature
from .verdict import LOGIT_LIMIT, GateLimits

Tensor = npt.NDArray[np.float32]

OTHER_BATCHES = (1, 3)
LARGE_BATCH = 32  # images of a simulation
# factors of an outlier: inputs lie in [-1, 1], and a scale measured over the batch would follow it. The next lower one
# is taken where FP16 overflows in the outlier's own row, which backends refuse: that is no fault of the graph
OUTLIERS = (50.0, 10.0, 3.0)
SIMULATED_IMAGES = 300  # a simulation runs one operator at a time, many times slower than the target
MIN_CERTAINTY = 0.1  # share of the way from chance to certainty; below it the softmax is flat
# standard deviation of a probability over the images; below it all images look the same to the model
MIN_DEVIATION = 0.01
FEW_IMAGES = 100  # with labels; on fewer no loss of accuracy below some points can be seen
MIN_SEQUENCE_EFFECT = 10 * LOGIT_LIMIT  # the least effect of another image's sequence on the logits, over max |logit|


class BatchRows:
    """Eight rows of a batch, run as one batch and in other ways; fewer are repeated, and more cut off."""

    def __init__(self, backend: Backend, tensors: Mapping[str, Tensor]) -> None:
        self._backend = backend
        self._tensors = {name: np.resize(tensor, (BATCH, *tensor.shape[1:])) for name, tensor in tensors.items()}
        self._logits = backend.run(self._tensors).logits

    def batch_error(self) -> float:
        """Return the largest |difference| of a logit between batches of 1 or 3 and the batch of 8."""
        return max(
            _difference(self._backend.run(_part(self._tensors, rows)).logits, self._logits[rows])
            for size in OTHER_BATCHES
            for rows in _slices(size, BATCH)
        )

    def neighbour_error(self) -> float:
        """Return the largest |difference| of a logit when another row of its batch is far outside the inputs' range.

        Each row has an outlier as its neighbour once: in the first place for those behind it, in the last for those
        before it.
        """
        return max(
            _difference(self._beside_outlier(place)[others], self._logits[others])
            for place, others in ((0, slice(1, None)), (-1, slice(None, -1)))
        )

    def sequence_effect(self) -> float:
        """Return the largest |difference| of a logit when every image gets its neighbour's sequence."""
        swapped = {**self._tensors, "sequence": np.roll(self._tensors["sequence"], 1, axis=0)}
        return _difference(self._backend.run(swapped).logits, self._logits)

    def _beside_outlier(self, place: int) -> Tensor:
        for factor in OUTLIERS:
            tensors = {name: tensor.copy() for name, tensor in self._tensors.items()}
            for tensor in tensors.values():
                tensor[place] *= factor
            try:
                return self._backend.run(tensors).logits
            except BackendError as error:
                refused = error
        raise refused


def _difference(found: Tensor, expected: Tensor) -> float:
    return float(np.abs(found - expected).max())


def _part(tensors: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def _slices(size: int, count: int) -> list[slice]:
    """Return slices of exactly ``size`` rows that cover ``count`` rows; the last ones may overlap."""
    return [slice(start, start + size) for start in (min(s, count - size) for s in range(0, count, size))]


@dataclass(frozen=True)
class GateFigures:
    """A variant's figures beside their limits, and the images whose first label flipped, the worst first.

    ``temperature`` is the reason, a sentence, where there is none.
    """

    parity: Parity
    flips: tuple[Flip, ...]
    temperature: Temperature | str


def run_gate(
    reference: Reference,
    backend: Backend,
    *,
    precision: Precision,
    simulated: bool,
    limits: GateLimits,
    on_batch: Callable[[int], None] | None = None,
) -> GateFigures:
    """Run a loaded graph on the reference's images, in batches of 8 or 32, streamed; nothing is judged yet.

    All images are run, or when simulated (the engine stands in for the variant's target) 300, and all again if the 300
    lost more accuracy than the limit allows and that may be chance. ``on_batch`` gets each batch's number of images.
    """
    # what overflows inside an operator does not show on a CPU: the weights were FP16 there, the execution was not
    device = backend.device + (" with FP16 weights" if simulated and precision == "fp16" else "")

    # a simulation's recurrent branch reads its weights once for all of a batch; its CNN takes eight images at a time
    batch = LARGE_BATCH if simulated and reference.spec.uses_rnn else BATCH

    def figures(count: int) -> GateFigures:
        try:
            rows = BatchRows(backend, next(reference.batches(count)))
            comparison = _compare(reference, backend, count, batch, on_batch)
            parity = _parity(reference, device, simulated, limits, comparison, rows)
        except BackendError as error:
            raise ParityError(
                f"{precision} could not be compared with Keras, expected finite outputs on {count} images: {error}"
            ) from error
        temperature = measure_temperature(comparison.found_logits, _truth(reference, count))
        return GateFigures(parity, comparison.flips(reference.images, reference.spec.class_labels), temperature)

    if not simulated or len(reference) <= SIMULATED_IMAGES:
        return figures(len(reference))
    first = figures(SIMULATED_IMAGES)
    return figures(len(reference)) if _by_chance(first.parity) else first


def _by_chance(parity: Parity) -> bool:
    """Tell whether nothing but the accuracy is refused, and its interval reaches down to what is allowed."""
    accuracy = parity.accuracy
    if parity.passed or accuracy is None or accuracy.max_drop is None or accuracy.drop_low > accuracy.max_drop:
        return False
    return parity.model_copy(update={"accuracy": accuracy.model_copy(update={"max_drop": None})}).passed


def _compare(
    reference: Reference, backend: Backend, count: int, batch: int, on_batch: Callable[[int], None] | None
) -> KerasComparison:
    logits, probabilities = [], []
    for tensors in reference.batches(count, batch):
        outputs = backend.run(tensors)
        logits.append(outputs.logits)
        probabilities.append(outputs.probabilities)
        if on_batch:
            on_batch(len(outputs.logits))
    return KerasComparison(
        expected_logits=reference.logits[:count],
        found_logits=np.concatenate(logits),
        expected_probabilities=reference.probabilities[:count],
        found_probabilities=np.concatenate(probabilities),
    )


def _parity(
    reference: Reference, device: str, simulated: bool, limits: GateLimits, comparison: KerasComparison, rows: BatchRows
) -> Parity:
    scale, images = comparison.scale, len(comparison.same)
    errors, confident = comparison.probability_errors, comparison.confident
    accuracy, labelled = _accuracy(reference, comparison, limits.max_drop)
    effect = rows.sequence_effect() / scale if reference.spec.branches == "hybrid" else None
    return Parity(
        images=images,
        simulated=simulated,
        max_logit_error=comparison.logit_error,
        logit_limit=limits.logits,
        max_probability_error=float(errors.max()),
        mean_probability_error=float(errors.mean()),
        probability_limit=limits.probabilities,
        top1_agreement=float(comparison.same.mean()),
        agreement_limit=_agreement_limit(limits, accuracy, bool(confident.any())),
        confident_images=int(confident.sum()),
        confident_agreement=float(comparison.same[confident].mean()) if confident.any() else None,
        confident_limit=limits.confident,
        top5_overlap=comparison.top5_overlap,
        accuracy=accuracy,
        flips=int((~comparison.same).sum()),
        batch_error=rows.batch_error() / scale,
        batch_limit=limits.batch,
        neighbour_error=rows.neighbour_error() / scale,
        neighbour_limit=limits.neighbour,
        sequence_error=reference.sequence_error,
        sequence_limit=limits.sequence if reference.sequence_error is not None else None,
        measured_on=f"{device}, {platform.machine()}; {reference.measured_on}",
        warnings=(
            *_flat_warnings(comparison.expected_probabilities),
            *_effect_warnings(effect),
            *_label_warnings(limits, images, labelled),
            *_few_warnings(limits, labelled),
        ),
    )


def _accuracy(reference: Reference, comparison: KerasComparison, max_drop: float | None) -> tuple[Accuracy | None, int]:
    """Measure the accuracy on the images whose label is a class of the model; return it and how many these are."""
    truth = _truth(reference, len(comparison.same))
    known = truth >= 0
    if not known.any():
        return None, 0
    both = comparison.expected_labels[known], comparison.found_labels[known]
    return paired_accuracy(*both, truth[known], max_drop), int(known.sum())


def _truth(reference: Reference, count: int) -> Labels:
    """Return the class of each of the first ``count`` images, -1 where it is none of the model's."""
    return class_indices([image.label for image in reference.images[:count]], reference.spec.class_labels)


def _agreement_limit(limits: GateLimits, accuracy: Accuracy | None, confident: bool) -> float | None:
    """Choose the agreement's limit on all images, which is judged where accuracy and confident agreement can't be."""
    if limits.confident is not None and accuracy is None and not confident:
        return limits.confident
    return limits.agreement


def _flat_warnings(probabilities: Tensor) -> Iterator[str]:
    """Warn of flat or equal outputs, which make a passed check worth little."""
    chance = 1 / probabilities.shape[1]
    certainty = float(probabilities.max(axis=1).mean())
    if certainty < chance + MIN_CERTAINTY * (1 - chance):
        yield (
            f"the outputs are nearly flat (mean top-1 probability {certainty:.3f}, chance is {chance:.3f}): any graph "
            "would pass, so this check proves little; is the model trained?"
        )
    if float(probabilities.std(axis=0).max()) < MIN_DEVIATION:
        yield (
            "the outputs are alike for all images: a graph that ignores its input would pass, so this check proves "
            "little; is the model trained, and are the images different?"
        )


def _effect_warnings(sequence_effect: float | None) -> Iterator[str]:
    if sequence_effect is not None and sequence_effect < MIN_SEQUENCE_EFFECT:
        yield (
            f"giving an image another's sequence changes its logits by only {sequence_effect:.1e} of max |logit|: the "
            "recurrent branch hardly counts in this model, and this check says little about it"
        )


def _label_warnings(limits: GateLimits, images: int, labelled: int) -> Iterator[str]:
    """Warn where the limit of the accuracy can't be judged, or on a part of the images only."""
    if limits.max_drop is None or labelled == images:
        return
    if labelled == 0:
        yield (
            f"none of the {images} images has a label that the model knows: the loss of accuracy is not judged, only "
            "the agreement with Keras; name class folders with --images DIR"
        )
    else:
        yield f"accuracy is judged on the {labelled} of {images} images whose label the model knows"


def _few_warnings(limits: GateLimits, labelled: int) -> Iterator[str]:
    """Warn where a loss of accuracy far above its limit would not show, as there are few images."""
    if limits.max_drop is not None and 0 < labelled < FEW_IMAGES:
        unseen = 100 * paired_interval(0, 0, labelled)[1]
        yield (
            f"with {labelled} labelled images an accuracy loss below {unseen:.0f} points can't be seen (95 %): without "
            "a single flip the true loss may be that large; --images DIR names more"
        )
