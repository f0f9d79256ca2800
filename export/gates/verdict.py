"""Gives a gate's verdict by the limits of a precision: a variant passes, or is refused with the likely cause."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...runtime.errors import ParityError
from ...runtime.manifest import Check, Parity, Precision
from ...runtime.spec import ModelSpec

MAX_DROP = 0.005
# FP32 carries 1e-7 and loses a factor of some tens over Xception's 74 convolutions; another model shows from 1e-2 on
LOGIT_LIMIT = 1e-4
PROBABILITY_LIMIT = 1e-4
DIGITS_PROBABILITY_LIMIT = 1e-5
BATCH_LIMIT = 1e-5  # another batch does the same arithmetic in another order of summation
NEIGHBOUR_LIMIT = 1e-5  # shapes and kernels are the same: nothing but the neighbour's values changes
SEQUENCE_LIMIT = 1e-6  # the mean of three values in [-1, 1]: the last bit is 6e-8
FP16_AGREEMENT = 0.995  # and that of weights of 8 bits
INT8_AGREEMENT = 0.99
FP16_ROUNDING = 0.02  # max |difference| / max |logit|: a step of FP16 is 5e-4, and many layers add up several


@dataclass(frozen=True)
class GateLimits:
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
    def for_precision(cls, precision: Precision, spec: ModelSpec, max_drop: float = MAX_DROP) -> GateLimits:
        """Return the limits of a precision; ``max_drop`` is the accuracy that INT8 may lose, 0 to 1."""
        if precision == "fp32":
            limit = DIGITS_PROBABILITY_LIMIT if spec.backbone == "digits" else PROBABILITY_LIMIT
            return cls(logits=LOGIT_LIMIT, probabilities=limit, batch=BATCH_LIMIT)
        # batches of other sizes sum in another order. The last bit of FP32 that changes stays a last bit in FP32, but
        # can push a value over the edge between two steps of FP16 or INT8, so only FP32 is judged by it
        if precision in ("fp16", "w8"):
            return cls(agreement=FP16_AGREEMENT)
        return cls(confident=INT8_AGREEMENT, max_drop=max_drop)


def require_passed(parity: Parity, variant: str, *, stale: str | None = None) -> None:
    """Raise ParityError, with the numbers and the likely cause, unless every figure that has a limit is within it.

    The variant's name is ``PRECISION-TARGET``. ``stale`` is a sentence that BatchNorm's statistics are stale, if they
    are; then it is named as the cause before the quantizer is.
    """
    failed = [check for check in parity.checks if not check.passed]
    if not failed:
        return
    numbers = "; ".join(_numbers(parity, check) for check in failed)
    raise ParityError(
        f"{variant} is not the Keras model, on {parity.images} images ({parity.measured_on}): {numbers}; "
        f"{parity.flips} of {parity.images} labels flipped (top-1 agreement {parity.top1_agreement:.2%}). "
        f"Likely cause: {_cause(parity, variant.partition('-')[0], stale)}. This variant was not put in the bundle"
    )


def _numbers(parity: Parity, check: Check) -> str:
    bound = "at most" if check.at_most else "at least"
    digits = ".3g" if check.at_most else ".6g"  # so that 0.99497 is not printed as 0.995
    return f"{check.name}: expected {bound} {check.limit:g}, found {check.found:{digits}}{_counts(parity, check)}"


def _counts(parity: Parity, check: Check) -> str:
    """Say which counts are behind a figure: one flip costs 1/N, so N belongs to the number."""
    if math.isnan(check.found):
        return ""
    if check.name == "top-1 agreement":
        return f" ({parity.flips} of {parity.images} flipped)"
    if check.name.startswith("top-1 agreement"):
        count = parity.confident_images
        return f" ({round((1 - check.found) * count)} of {count} flipped)"
    if check.name == "accuracy drop" and parity.accuracy is not None:
        accuracy = parity.accuracy
        return (
            f" ({accuracy.keras:.2%} with Keras, {accuracy.variant:.2%} with the variant; 95 % interval of the drop "
            f"{accuracy.drop_low:.4f} to {accuracy.drop_high:.4f})"
        )
    return ""


def _cause(parity: Parity, precision: str, stale: str | None) -> str:
    if _over(parity.sequence_error, parity.sequence_limit):
        return "the preprocessing's sequence is not the model's own: scaling, channel mean or order of the timesteps"
    if _over(parity.neighbour_error, parity.neighbour_limit) or _over(parity.batch_error, parity.batch_limit):
        return "a row depends on its neighbours in the batch: a fixed batch size or a scale measured over the batch"
    if precision == "fp16":
        return _fp16_cause(parity)
    if precision == "int8":
        return _int8_cause(stale)
    if parity.max_logit_error < 100 * (parity.logit_limit or 0):
        return (
            "reduced precision on one side (TF32, oneDNN's BF16, mixed precision), or activations grown out of range "
            "because BatchNorm's statistics are stale"
        )
    return "another computation: gate order, channel order, scaling, order of the timesteps, or damaged weights"


def _fp16_cause(parity: Parity) -> str:
    if parity.max_logit_error < FP16_ROUNDING:
        return (
            "images on which Keras itself hardly decides (see the flipped ones); the more images, the less one of them "
            "counts: --gate-images"
        )
    return (
        "an activation beyond FP16's range of 65,504 (the report has the largest of each layer), or another "
        "computation: gate order or a damaged weight"
    )


def _int8_cause(stale: str | None) -> str:
    ranges = (
        "calibration ranges that don't fit these activations (other images, weights or preprocessing, damaged ranges), "
        "layers that don't bear INT8 (hybrid-export --sensitivity ranks them), a damaged weight, or the order of the "
        "recurrent layers' gates"
    )
    return f"{stale}; only then {ranges}" if stale else ranges


def _over(found: float | None, limit: float | None) -> bool:
    """Tell whether a figure that is judged is over its limit; NaN counts as over it."""
    return found is not None and limit is not None and not found <= limit
