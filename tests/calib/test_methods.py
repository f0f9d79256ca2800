from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hybrid_edge.calib import METHODS, Method, TensorStatistics, choose_range, methods
from hybrid_edge.calib.methods import MIN_RANGE_WIDTH, entropy_threshold
from hybrid_edge.runtime.errors import CalibrationError

Make = Callable[..., TensorStatistics]
every_method = pytest.mark.parametrize("method", METHODS)
RNG = np.random.default_rng(5)
SHAPES: dict[str, npt.NDArray[Any]] = {
    "normal": RNG.normal(size=20_000),
    "behind a ReLU": np.maximum(RNG.normal(size=20_000), 0),
    "heavy tails": RNG.standard_t(2, size=20_000),
    "one outlier": np.append(RNG.normal(size=20_000), 60),
    "uniform": RNG.uniform(-3, 5, 20_000),
    "few values": RNG.normal(size=40),
    "negative": -np.abs(RNG.normal(size=2000)) - 1,
}
ODD = {"zero": np.zeros(9), "tiny": np.full(9, 1e-12), "constant": np.full(9, 5.0), "negative constant": -np.ones(9)}


def slow_entropy(statistics: TensorStatistics, levels: int) -> float:
    """Migacz's pseudo-code as it stands, one number of bins after the other."""
    counts = statistics.magnitudes.astype(float)
    counts = counts[: int(np.flatnonzero(counts)[-1]) + 1]
    counts[0] = min(counts[0], counts[1])
    best = (np.inf, 0)
    for bins in range(levels, len(counts) + 1):
        inside, level_of = counts[:bins], np.arange(bins) * levels // bins
        reference = inside.copy()
        reference[-1] += counts[bins:].sum()
        mass, occupied = np.bincount(level_of, inside, levels), np.bincount(level_of, inside > 0, levels)
        quantized = np.where(inside > 0, (mass / np.maximum(occupied, 1))[level_of], 0)
        present = reference > 0
        if not quantized.sum() or (quantized[present] == 0).any():
            continue
        p, q = reference[present] / reference.sum(), quantized[present] / quantized.sum()
        best = min(best, (float((p * np.log(p / q)).sum()), bins))
    return best[1] * statistics.radius / len(statistics.magnitudes)


@pytest.mark.parametrize("levels", [128, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_finds_what_the_slow_search_finds(measured: Make, shape: str, levels: int) -> None:
    statistics = measured(SHAPES[shape])
    assert entropy_threshold(statistics, levels) == slow_entropy(statistics, levels)


@every_method
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("values", [*SHAPES.values(), *ODD.values()], ids=[*SHAPES, *ODD])
def test_a_range_contains_zero_is_not_empty_and_not_wider_than_the_values(
    measured: Make, values: npt.NDArray[Any], symmetric: bool, method: Method
) -> None:
    statistics = measured(values)
    low, high = choose_range(statistics, method, symmetric=symmetric)
    assert low <= 0 <= high
    assert high - low >= MIN_RANGE_WIDTH
    if symmetric:
        assert low == -high
        assert high <= max(statistics.peak, MIN_RANGE_WIDTH)
    else:
        assert low >= min(statistics.low, 0)
        assert high <= max(statistics.high, MIN_RANGE_WIDTH)


def test_min_max_keeps_every_value(measured: Make) -> None:
    statistics = measured(np.array([-0.5, 2.0, 1.0]))
    assert choose_range(statistics, "minmax", symmetric=True) == (-2, 2)
    assert choose_range(statistics, "minmax", symmetric=False) == (-0.5, 2)


@every_method
def test_behind_a_relu_unsigned_ranges_begin_at_zero(measured: Make, method: Method) -> None:
    low, high = choose_range(measured(SHAPES["behind a ReLU"]), method, symmetric=False)
    assert low == 0
    assert high > 2


def test_unsigned_values_are_searched_with_all_their_levels(measured: Make) -> None:
    statistics = measured(np.abs(SHAPES["heavy tails"]))
    signed, unsigned = (entropy_threshold(statistics, levels) for levels in (128, 256))
    assert signed != unsigned
    assert choose_range(statistics, "entropy", symmetric=True).high == signed
    assert choose_range(statistics, "entropy", symmetric=False) == (0, unsigned)


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_one_outlier_is_clipped_and_min_max_keeps_it(measured: Make, method: Method) -> None:
    # of 200,000 values the percentile leaves one outside: here there are 600,000, and one of them is an outlier
    statistics = measured(np.append(RNG.normal(size=600_000), 60))
    for symmetric in (True, False):
        assert 3 < choose_range(statistics, method, symmetric=symmetric).high < 8
        assert choose_range(statistics, "minmax", symmetric=symmetric).high == 60


@pytest.mark.parametrize("share", [90.0, 99.0, 99.9])
def test_percentile_leaves_its_share_outside(measured: Make, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(methods, "PERCENTILE", share)
    values = SHAPES["uniform"]
    low, high = choose_range(measured(values), "percentile", symmetric=False)
    assert np.mean((values < low) | (values > high)) == pytest.approx(1 - share / 100, abs=5e-4)
    assert np.mean(values < low) == pytest.approx((1 - share / 100) / 2, abs=5e-4)
    limit = choose_range(measured(values), "percentile", symmetric=True).high
    assert np.mean(np.abs(values) > limit) == pytest.approx(1 - share / 100, abs=5e-4)


@every_method
@pytest.mark.parametrize("symmetric", [True, False])
def test_bounds_cap_a_range_and_never_widen_it(measured: Make, method: Method, symmetric: bool) -> None:
    wide, narrow = measured(SHAPES["normal"]), measured(SHAPES["normal"] / 20)
    assert choose_range(wide, method, symmetric=symmetric, bounds=(-1, 1)) == (-1, 1)
    free = choose_range(narrow, method, symmetric=symmetric)
    assert choose_range(narrow, method, symmetric=symmetric, bounds=(-1, 1)) == free
    assert free.high < 0.3


def test_a_tensor_that_is_always_zero_gets_the_documented_minimum(measured: Make) -> None:
    assert choose_range(measured(np.zeros(4)), "minmax", symmetric=False) == (0, MIN_RANGE_WIDTH)
    assert choose_range(measured(np.zeros(4)), "entropy", symmetric=True) == (-MIN_RANGE_WIDTH, MIN_RANGE_WIDTH)
    assert np.float16(MIN_RANGE_WIDTH / 127) > 0, "as an FP16 scale it would be zero"


def test_bounds_without_zero_and_tensors_without_values_are_refused(measured: Make) -> None:
    with pytest.raises(CalibrationError, match="bounds around 0"):
        choose_range(measured(np.ones(3)), "minmax", symmetric=True, bounds=(0.5, 1))
    with pytest.raises(CalibrationError, match="found none"):
        choose_range(measured(), "minmax", symmetric=True)
