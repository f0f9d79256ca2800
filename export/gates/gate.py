"""Runs a variant against Keras on real images and measures every figure that its gate has a limit for."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...runtime.backends.base import Backend
from ...runtime.errors import BackendError, ParityError
from ...runtime.manifest import Accuracy, Parity, Precision
from ...runtime.spec import ModelSpec
from .compare import Comparison, Flip
from .paired import class_indices, paired_accuracy
from .reference import Reference
from .rows import Rows

__all__ = ["SIMULATED_IMAGES", "Limits", "Measured", "measure", "measure_drift"]


SIMULATED_IMAGES = 300  # a simulation runs one operator at a time, many times slower than the target
MAX_DROP = 0.005
# FP32 carries 1e-7 and loses a factor of some tens over Xception's 74 convolutions; another model shows from 1e-2 on
LOGIT_LIMIT = 1e-4
PROBABILITY_LIMITS = {"digits": 1e-5, "xception": 1e-4}
BATCH_LIMIT = 1e-5  # another batch does the same arithmetic in another order of summation
NEIGHBOUR_LIMIT = 1e-5  # shapes and kernels are the same: nothing but the neighbour's values changes
SEQUENCE_LIMIT = 1e-6  # the mean of three values in [-1, 1]: the last bit is 6e-8
FP16_AGREEMENT = 0.995
INT8_AGREEMENT = 0.99
NEARLY_CHANCE = 0.1  # share of the way from chance to certainty; below it the softmax is flat
ALIKE = 0.01  # standard deviation of a probability over the images; below it all images look the same to the model
HARDLY_COUNTS = 10 * LOGIT_LIMIT  # the least effect of another image's sequence on the logits, over max |logit|


@dataclass(frozen=True)
class Limits:
    """The limit of each figure of a Parity; a figure whose limit is None is measured and not judged."""

    logits: float | None = None
    probabilities: float | None = None
    agreement: float | None = None
    confident: float | None = None
    max_drop: float | None = None
    batch: float | None = None
    neighbour: float = NEIGHBOUR_LIMIT
    sequence: float = SEQUENCE_LIMIT

    @classmethod
    def for_precision(cls, precision: Precision, spec: ModelSpec, max_drop: float = MAX_DROP) -> Limits:
        """Return the limits of a precision.

        Args:
            precision: the variant's precision.
            spec: the model's spec; FP32's limit of the probabilities depends on its backbone.
            max_drop: the accuracy that INT8 may lose, 0 to 1.
        """
        if precision == "fp32":
            return cls(logits=LOGIT_LIMIT, probabilities=PROBABILITY_LIMITS[spec.backbone], batch=BATCH_LIMIT)
        # batches of other sizes sum in another order. The last bit of FP32 that changes stays a last bit in FP32, but
        # can push a value over the edge between two steps of FP16 or INT8, so only FP32 is judged by it
        if precision == "fp16":
            return cls(agreement=FP16_AGREEMENT)
        return cls(confident=INT8_AGREEMENT, max_drop=max_drop)


@dataclass(frozen=True)
class Measured:
    """A variant's figures beside their limits, and the images whose first label flipped, the worst first."""

    parity: Parity
    flips: tuple[Flip, ...]


def measure(
    reference: Reference,
    backend: Backend,
    *,
    precision: Precision,
    simulated: bool,
    limits: Limits,
    count: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Measured:
    """Run a loaded graph on the reference's images, in batches of 8, streamed; nothing is judged yet.

    Args:
        reference: what Keras gives.
        backend: the exported graph on an engine.
        precision: the variant's precision.
        simulated: whether the engine stands in for the variant's target.
        limits: the limits that the figures are recorded with.
        count: how many images to run, from the first on. By default these are all, or when simulated 300, and all
            again if the 300 lost more accuracy than the limit allows and that may be chance.
        on_batch: called after each batch with its number of images.

    Raises:
        ParityError: the engine refused a batch, or gave NaN or infinity.
    """
    if count is None and simulated and len(reference) > SIMULATED_IMAGES:
        options: dict[str, Any] = {
            "precision": precision,
            "simulated": simulated,
            "limits": limits,
            "on_batch": on_batch,
        }
        first = measure(reference, backend, count=SIMULATED_IMAGES, **options)
        return measure(reference, backend, count=len(reference), **options) if _by_chance(first.parity) else first
    count = min(len(reference), count or len(reference))
    try:
        rows = Rows(backend, next(reference.batches(count)))
        comparison = _run(reference, backend, count, on_batch)
        # what overflows inside an operator does not show on a CPU: the weights were FP16 there, the execution was not
        weights = " with FP16 weights" if simulated and precision == "fp16" else ""
        parity = _parity(reference, backend.device + weights, simulated, limits, comparison, rows)
    except BackendError as error:
        raise ParityError(
            f"{precision} could not be compared with Keras, expected finite outputs on {count} images: {error}"
        ) from error
    return Measured(parity, comparison.flips(reference.images, reference.spec.class_labels))


def measure_drift(
    reference: Reference, hidden: Callable[[Mapping[str, Tensor]], npt.NDArray[Any]]
) -> tuple[float, ...]:
    """Measure how far the last LSTM's hidden state drifts from Keras's.

    Args:
        reference: what Keras gives; its first M images are used.
        hidden: a function of the spec's inputs (n rows) that gives the last LSTM's hidden states (T, n, H).

    Returns:
        The RMS difference / RMS of Keras for each timestep; an empty tuple without a recurrent branch.
    """
    if reference.hidden is None:
        return ()
    timesteps, images, _ = reference.hidden.shape
    differences, squares = np.zeros(timesteps), np.zeros(timesteps)
    done = 0
    for tensors in reference.batches(images):
        found = np.asarray(hidden(tensors), np.float64)
        expected = reference.hidden[:, done : done + found.shape[1]]
        differences += np.square(found - expected).sum(axis=(1, 2))
        squares += np.square(expected, dtype=np.float64).sum(axis=(1, 2))
        done += found.shape[1]
    return tuple(np.sqrt(differences / np.maximum(squares, np.finfo(np.float32).tiny)).tolist())


def _by_chance(parity: Parity) -> bool:
    """Tell whether nothing but the accuracy is refused, and its interval reaches down to what is allowed."""
    accuracy = parity.accuracy
    if parity.passed or accuracy is None or accuracy.max_drop is None or accuracy.drop_low > accuracy.max_drop:
        return False
    return parity.model_copy(update={"accuracy": accuracy.model_copy(update={"max_drop": None})}).passed


def _run(reference: Reference, backend: Backend, count: int, on_batch: Callable[[int], None] | None) -> Comparison:
    logits, probabilities = [], []
    for tensors in reference.batches(count):
        outputs = backend.run(tensors)
        logits.append(outputs.logits)
        probabilities.append(outputs.probabilities)
        if on_batch:
            on_batch(len(outputs.logits))
    return Comparison(
        expected_logits=reference.logits[:count],
        found_logits=np.concatenate(logits),
        expected_probabilities=reference.probabilities[:count],
        found_probabilities=np.concatenate(probabilities),
    )


def _parity(
    reference: Reference, device: str, simulated: bool, limits: Limits, comparison: Comparison, rows: Rows
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
        ),
    )


def _accuracy(reference: Reference, comparison: Comparison, max_drop: float | None) -> tuple[Accuracy | None, int]:
    """Measure the accuracy on the images whose label is a class of the model; return it and how many these are."""
    count = len(comparison.same)
    truth = class_indices([image.label for image in reference.images[:count]], reference.spec.class_labels)
    known = truth >= 0
    if not known.any():
        return None, 0
    both = comparison.expected_labels[known], comparison.found_labels[known]
    return paired_accuracy(*both, truth[known], max_drop), int(known.sum())


def _agreement_limit(limits: Limits, accuracy: Accuracy | None, confident: bool) -> float | None:
    """Choose the agreement's limit on all images, which is judged where accuracy and confident agreement can't be."""
    if limits.confident is not None and accuracy is None and not confident:
        return limits.confident
    return limits.agreement


def _flat_warnings(probabilities: Tensor) -> Iterator[str]:
    """Warn of flat or equal outputs, which make a passed check worth little."""
    chance = 1 / probabilities.shape[1]
    certainty = float(probabilities.max(axis=1).mean())
    if certainty < chance + NEARLY_CHANCE * (1 - chance):
        yield (
            f"the outputs are nearly flat (mean top-1 probability {certainty:.3f}, chance is {chance:.3f}): any graph "
            "would pass, so this check proves little; is the model trained?"
        )
    if float(probabilities.std(axis=0).max()) < ALIKE:
        yield (
            "the outputs are alike for all images: a graph that ignores its input would pass, so this check proves "
            "little; is the model trained, and are the images different?"
        )


def _effect_warnings(sequence_effect: float | None) -> Iterator[str]:
    if sequence_effect is not None and sequence_effect < HARDLY_COUNTS:
        yield (
            f"giving an image another's sequence changes its logits by only {sequence_effect:.1e} of max |logit|: the "
            "recurrent branch hardly counts in this model, and this check says little about it"
        )


def _label_warnings(limits: Limits, images: int, labelled: int) -> Iterator[str]:
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
