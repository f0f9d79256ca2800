"""Chooses the range that INT8 covers from a tensor's statistics: by min-max, entropy or percentile.

Min-max keeps every value; the other two clip outliers so that the rest gets finer steps. Entropy is the search of
S. Migacz, "8-bit inference with TensorRT" (NVIDIA, GTC 2017), as TensorRT, ONNX Runtime and pytorch-quantization have
it; percentile is ONNX Runtime's.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..runtime.errors import CalibrationError
from .statistics import TensorStatistics

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")

PERCENTILE = 99.9995  # of the values lie inside the range
# the narrowest range is 127 steps of FP16's smallest number; a tensor that is always zero gets this one
MIN_RANGE_WIDTH = 127 * 2.0**-24
LEVELS = 128  # steps of |x| in signed 8 bits; unsigned values have twice as many

Array = npt.NDArray[np.float64]


class Range(NamedTuple):
    """The values that a quantized tensor covers: low <= 0 <= high, low < high."""

    low: float
    high: float


def choose_range(
    statistics: TensorStatistics,
    method: Method,
    *,
    symmetric: bool,
    bounds: tuple[float, float] | None = None,
) -> Range:
    """Choose the range of one tensor, which contains 0 and lies within what was measured, down to ``MIN_RANGE_WIDTH``.

    A ``symmetric`` range has -low = high, for signed INT8 with no zero point; else each end is chosen by itself, for
    uint8. ``bounds`` are the values that the tensor can't exceed by its mathematics, (-1, 1) behind tanh; they cap the
    range and never widen it.

    Raises:
        CalibrationError: no value was measured, or the bounds do not contain 0.
    """
    if not statistics.count:
        raise CalibrationError(f"tensor {statistics.name!r}: expected measured values, found none: calibrate again")
    if bounds is not None and not bounds[0] <= 0 <= bounds[1]:
        raise CalibrationError(f"tensor {statistics.name!r}: expected bounds around 0, found {bounds}")
    low, high = _ends(statistics, method, symmetric)
    low, high = max(low, statistics.low), min(high, statistics.high)
    if symmetric:
        high = max(-low, high)
        low = -high
        if bounds is not None:
            high = min(high, max(-bounds[0], bounds[1]))
            low = -high
    elif bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return _proper(low, high, symmetric)


def _ends(statistics: TensorStatistics, method: Method, symmetric: bool) -> tuple[float, float]:
    if method == "minmax":
        return statistics.low, statistics.high
    if method == "entropy":
        one_sided = not symmetric and (statistics.low >= 0 or statistics.high <= 0)
        threshold = entropy_threshold(statistics, 2 * LEVELS if one_sided else LEVELS)
        return -threshold, threshold
    outside = 1 - PERCENTILE / 100
    if symmetric:
        threshold = _quantile(statistics.magnitudes, 0.0, statistics.radius, 1 - outside)
        return -threshold, threshold
    low, high = ((outside / 2), 1 - outside / 2)
    radius = statistics.radius
    return (
        _quantile(statistics.histogram, -radius, radius, low),
        _quantile(statistics.histogram, -radius, radius, high),
    )


def _proper(low: float, high: float, symmetric: bool) -> Range:
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < MIN_RANGE_WIDTH:
        high = MIN_RANGE_WIDTH
        low = -MIN_RANGE_WIDTH if symmetric else low
    return Range(low, high)


def _quantile(histogram: npt.NDArray[np.int64], start: float, end: float, share: float) -> float:
    """Return the value below which ``share`` of all values lie, as if they were spread evenly within each bin."""
    cumulative = np.concatenate([[0], np.cumsum(histogram)]) / histogram.sum()
    return float(np.interp(share, cumulative, np.linspace(start, end, len(histogram) + 1)))


def entropy_threshold(statistics: TensorStatistics, levels: int = LEVELS) -> float:
    """Find the |value| to clip at, so that the quantized distribution diverges least (KL) from the true one.

    For each number of bins i the distribution P is the first i bins of |x| with all that lies beyond added to the last;
    Q is the first i bins merged to ``levels`` of equal width, each spread evenly over its bins that are not empty. Zero
    is exact at any scale, so the first bin counts no more than the second (as in pytorch-quantization): else the zeros
    behind a ReLU would decide. The result is the upper edge of the best i bins; where no more than ``levels`` are
    occupied, the edge of the last of these.
    """
    counts = statistics.magnitudes.astype(np.float64)
    occupied = int(np.flatnonzero(counts)[-1]) + 1
    counts = counts[:occupied]
    if occupied > 1:
        counts[0] = min(counts[0], counts[1])
    width = statistics.radius / len(statistics.magnitudes)
    if occupied <= levels:
        return occupied * width
    candidates = np.arange(levels, occupied + 1)
    return float(candidates[np.argmin(_divergences(counts, candidates, levels))] * width)


def _divergences(counts: Array, candidates: npt.NDArray[np.int64], levels: int) -> Array:
    """Compute KL(P || Q), up to a constant factor, for each number of bins in ``candidates``, from cumulative sums.

    sum P log(P / Q) over the bins splits into sum P log P, a cumulative sum, and sum P log Q, where Q is one value for
    each level.
    """
    total = counts.sum()
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    nonzero = np.concatenate([[0], np.cumsum(counts > 0)])
    edges = -(-np.arange(levels + 1) * candidates[:, None] // levels)  # (candidates, levels + 1): first bin of a level
    mass = np.diff(cumulative[edges], axis=1)
    log_q = np.log(np.maximum(mass, 1e-300) / np.maximum(np.diff(nonzero[edges], axis=1), 1))
    inside = cumulative[candidates]
    last = counts[candidates - 1]
    beyond = total - inside
    own = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])[candidates]
    own += _x_log_x(last + beyond) - _x_log_x(last)
    with np.errstate(divide="ignore"):
        normalize = total * (np.log(inside) - np.log(total))  # no mass inside: -inf, made infinite below
    divergences = own - (mass * log_q).sum(axis=1) - beyond * log_q[:, -1] + normalize
    # where P has mass and Q has none, the divergence is infinite
    return np.where((beyond > 0) & (last == 0) | (inside == 0), np.inf, divergences)


def _x_log_x(values: Array) -> Array:
    return values * np.log(np.maximum(values, 1e-300))
