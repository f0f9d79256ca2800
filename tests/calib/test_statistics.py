from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from hybrid_edge.calib import TensorStatistics
from hybrid_edge.calib.statistics import BINS, BLOCK_VALUES, SMALLEST_RADIUS
from hybrid_edge.runtime.errors import CalibrationError

Make = Callable[..., TensorStatistics]


def test_every_value_is_counted_once_in_the_bin_it_belongs_to(measured: Make) -> None:
    values = np.random.default_rng(0).normal(size=(3, BLOCK_VALUES // 2 + 77)).astype(np.float32) * 3
    found = measured(values)
    expected, _ = np.histogram(values, bins=BINS, range=(-found.radius, found.radius))
    assert found.count == values.size == found.histogram.sum()
    # a value within rounding of an edge may lie on its other side
    assert np.abs(np.cumsum(found.histogram) - np.cumsum(expected)).max() <= 50
    assert np.abs(found.histogram - expected).sum() <= 0.001 * values.size
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.square_sum == pytest.approx(float(np.square(values.astype(np.float64)).sum()), rel=1e-9)
    assert found.rms == pytest.approx(3, rel=0.05)
    assert found.peak == np.abs(values).max()


def test_larger_values_that_come_later_widen_the_histogram_without_losing_a_count(measured: Make) -> None:
    rng = np.random.default_rng(1)
    small, large = rng.normal(size=5000).astype(np.float32), (rng.normal(size=5000) * 700).astype(np.float32)
    in_pieces, at_once = measured(small, large), measured(np.concatenate([small, large]))
    assert math.frexp(in_pieces.radius)[0] == 0.5
    assert in_pieces.peak < in_pieces.radius <= 2 * in_pieces.peak
    assert in_pieces.radius == at_once.radius
    assert in_pieces.histogram.sum() == 10_000
    assert np.abs(in_pieces.histogram - at_once.histogram).sum() <= 4
    assert in_pieces.square_sum == pytest.approx(at_once.square_sum)


@pytest.mark.parametrize("edge", [1.0, -1.0, np.nextafter(np.float32(1), np.float32(0)), 2.0**-30, 0.0, -0.0, 3e38])
def test_values_at_the_ends_of_the_histogram_are_counted(measured: Make, edge: float) -> None:
    found = measured(np.full(5, edge))
    assert found.histogram.sum() == 5
    assert np.isfinite(found.square_sum)


def test_magnitudes_fold_both_signs_onto_one_histogram(measured: Make) -> None:
    positive = np.random.default_rng(2).uniform(0.01, 0.9, 4000)
    one_sided, folded = measured(positive), measured(np.where(np.arange(4000) % 2, positive, -positive))
    assert one_sided.magnitudes.shape == (BINS // 2,)
    assert np.abs(one_sided.magnitudes - folded.magnitudes).sum() <= 4


def test_counts_beyond_what_float32_holds_stay_exact(measured: Make) -> None:
    found = measured(*[np.zeros(2**20)] * 20)
    assert found.histogram[BINS // 2] == 20 * 2**20 > 2**24


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_the_tensors_name(measured: Make, value: float) -> None:
    values = np.ones(BLOCK_VALUES + 10, np.float32)
    values[-1] = value
    with pytest.raises(CalibrationError, match=r"'tensor'.*finite"):
        measured(values)


def test_halves_are_measured_and_integers_refused() -> None:
    statistics = TensorStatistics("tensor")
    statistics.update(np.array([0.5, -2.0], np.float16))
    assert (statistics.low, statistics.high, statistics.count) == (-2.0, 0.5, 2)
    with pytest.raises(CalibrationError, match="floating-point values, found int64"):
        statistics.update(np.array([1]))
    with pytest.raises(CalibrationError, match="finite"):
        statistics.update(np.array([1e300]))


def test_a_tensor_without_values_has_no_peak() -> None:
    statistics = TensorStatistics("tensor")
    statistics.update(np.empty((0, 3), np.float32))
    assert (statistics.count, statistics.peak, statistics.rms, statistics.radius) == (0, 0, 0, SMALLEST_RADIUS)
