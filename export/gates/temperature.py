"""Fits the temperature at which a variant's probabilities are as often right as they say, and measures how far off.

C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On Calibration of Modern Neural Networks, ICML 2017: one number T for all
classes, softmax(logits / T), that minimizes the negative log-likelihood of labelled images; and the expected
calibration error, the mean |accuracy - top-1 probability| over bins of that probability, weighted by their images. The
order of the labels stays, and so does the accuracy.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...runtime.frame import Outputs
from ...runtime.manifest import MAX_TEMPERATURE, MIN_TEMPERATURE, ReliabilityBin, Temperature

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

BINS = 15
# temperatures of as many images, drawn from 1,000 of tiny-imagenet, scatter by 12 %, of half as many by 18 %
MIN_LABELLED = 100
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
STEPS = 32  # of the search, each of which leaves 62 % of the range: log T is known to 1e-6 then
NEAR_END = 1e-3  # of log T: a minimum so near to the range's end is none


def measure_temperature(logits: Logits, labels: Labels) -> Temperature | str:
    """Fit the temperature of N images, and its errors, or return the reason why there is none.

    Args:
        logits: (N, C) of the variant, finite.
        labels: (N,) the true classes, -1 where they aren't known; such images count for nothing.

    The temperature is fitted on all images. The error after is cross-fitted, so that nothing is judged by what it was
    fitted on: each half of the images, in a fixed random order, at the temperature of the other half. Where that is no
    smaller than before, the temperature is 1: the model is about as sure as it is right.
    """
    known = labels >= 0
    logits, labels = logits[known], labels[known]
    if len(labels) < MIN_LABELLED:
        return f"{len(labels)} of the images have a label, and it needs {MIN_LABELLED}; --images DIR names more"
    order = np.random.default_rng(0).permutation(len(labels))
    first, second = order[::2], order[1::2]
    value, *halves = (fit_temperature(logits[rows], labels[rows]) for rows in (order, first, second))
    if not all(map(_inside, (value, *halves))):
        wrong = int((logits.argmax(axis=1) != labels).sum())
        return f"{wrong} of {len(labels)} images are wrong: too few, or too many, to tell how sure the model may be"
    before = reliability(_probabilities(logits, 1.0), labels)
    crossed = np.empty(logits.shape, np.float32)
    for rows, temperature in zip((second, first), halves, strict=True):
        crossed[rows] = _probabilities(logits[rows], temperature)
    after = reliability(crossed, labels)
    if calibration_error(after) >= calibration_error(before):
        value, after = 1.0, before
    return Temperature(
        value=value,
        images=len(labels),
        error_before=calibration_error(before),
        error_after=calibration_error(after),
        before=before,
        after=after,
    )


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Find the temperature that minimizes the negative log-likelihood, by golden-section search over its logarithm.

    The likelihood has one maximum only: its logarithm is concave in 1 / T.
    """
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    inner = [high - GOLDEN_RATIO * (high - low), low + GOLDEN_RATIO * (high - low)]
    found = [_negative_log_likelihood(logits, labels, math.exp(place)) for place in inner]
    for _ in range(STEPS):
        if found[0] < found[1]:
            high, inner, found = inner[1], [0.0, inner[0]], [0.0, found[0]]
            place, number = high - GOLDEN_RATIO * (high - low), 0
        else:
            low, inner, found = inner[0], [inner[1], 0.0], [found[1], 0.0]
            place, number = low + GOLDEN_RATIO * (high - low), 1
        inner[number], found[number] = place, _negative_log_likelihood(logits, labels, math.exp(place))
    return math.exp((low + high) / 2)


def reliability(probabilities: Logits, labels: Labels) -> tuple[ReliabilityBin, ...]:
    """Sort N images into 15 bins of equal width by their top-1 probability; (N, C) and (N,)."""
    confidence, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    sums, hits = (np.bincount(places, weights=values, minlength=BINS) for values in (confidence, right))
    return tuple(
        ReliabilityBin(images=int(count), confidence=total / max(count, 1), accuracy=hit / max(count, 1))
        for count, total, hit in zip(counts, sums, hits, strict=True)
    )


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Return the expected calibration error, 0 to 1."""
    total = sum(item.images for item in bins)
    return sum(item.images * abs(item.accuracy - item.confidence) for item in bins) / total


def _probabilities(logits: Logits, temperature: float) -> Logits:
    return Outputs(logits, logits).at_temperature(temperature).probabilities


def _negative_log_likelihood(logits: Logits, labels: Labels, temperature: float) -> float:
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    own = scaled[np.arange(len(labels)), labels]
    return float((np.log(np.exp(scaled).sum(axis=1)) - own).mean())


def _inside(temperature: float) -> bool:
    ends = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    return ends[0] + NEAR_END < math.log(temperature) < ends[1] - NEAR_END
