import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybrid_edge.calib import Binding, TensorStatistics
from hybrid_edge.calib.statistics import BINS, BLOCK_VALUES, SMALLEST_RADIUS
from hybrid_edge.calib.statistics_file import MeasuredStatistics, images_hash, load_if_same, save
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


BINDING = Binding(weights="1" * 64, images="2" * 64, preprocessing="3" * 64, graph="4" * 64)


@pytest.fixture
def saved(measured: Make, tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    statistics = {"cnn/Conv": measured(rng.normal(size=999)), "product é": measured(-rng.random(size=50) * 1e5)}
    for name, item in statistics.items():
        item.name = name
    save(tmp_path / "ranges.npz", MeasuredStatistics(statistics, 17, ("a.png: damaged",)), BINDING)
    return tmp_path / "ranges.npz"


def test_what_was_saved_is_read_back_exactly(saved: Path, measured: Make) -> None:
    found, reason = load_if_same(saved, BINDING)
    assert reason.startswith("reused")
    assert (found.images, found.skipped) == (17, ("a.png: damaged",))
    original = measured(np.random.default_rng(3).normal(size=999))
    item = found.statistics["cnn/Conv"]
    for name in ("count", "low", "high", "square_sum", "radius"):
        assert getattr(item, name) == getattr(original, name)
    assert np.array_equal(item.histogram, original.histogram)
    assert list(found.statistics) == ["cnn/Conv", "product é"]


def test_the_reason_names_everything_that_differs(saved: Path) -> None:
    other = Binding(weights="5" * 64, images="2" * 64, preprocessing="3" * 64, graph="6" * 64)
    found, reason = load_if_same(saved, other)
    assert found is None
    assert reason.startswith("measured again: weights and graph differ")


def test_any_damage_means_measuring_again_and_never_other_statistics(saved: Path) -> None:
    original = saved.read_bytes()
    intact, _ = load_if_same(saved, BINDING)
    rng = np.random.default_rng(0)
    damaged = [original[:end] for end in rng.integers(0, len(original), 40)]
    for position in rng.integers(0, len(original), 150):
        flipped = bytearray(original)
        flipped[position] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    refused = 0
    for data in damaged:
        saved.write_bytes(data)
        found, reason = load_if_same(saved, BINDING)
        refused += found is None
        if found is None:
            assert reason.startswith("measured again: ")
        else:  # a bit that means nothing: a date, a file's rights
            assert found.images == intact.images
            for name, item in found.statistics.items():
                assert np.array_equal(item.histogram, intact.statistics[name].histogram)
                assert item.radius == intact.statistics[name].radius
    assert refused > 150


@pytest.mark.parametrize("field", ["count", "radius", "high", "low", "square_sum", "histogram"])
def test_statistics_that_contradict_each_other_are_not_reused(measured: Make, tmp_path: Path, field: str) -> None:
    item = measured(np.ones(9))
    changed = {"count": 8, "radius": 2.5, "high": 2.0, "low": 1.5, "square_sum": np.nan, "histogram": -item.histogram}
    setattr(item, field, changed[field])
    save(tmp_path / "ranges.npz", MeasuredStatistics({"tensor": item}, 1), BINDING)
    found, reason = load_if_same(tmp_path / "ranges.npz", BINDING)
    assert found is None
    assert "contradict each other" in reason


def test_a_file_that_unpacks_to_too_much_or_runs_code_is_not_read(saved: Path) -> None:
    np.savez_compressed(saved, record=np.zeros(2**28 + 1, np.uint8))
    assert "unpacked" in load_if_same(saved, BINDING)[1]
    np.savez(saved, record=np.array([print], dtype=object))
    assert load_if_same(saved, BINDING)[0] is None


def test_a_file_that_is_absent_a_folder_or_of_another_format_is_measured(tmp_path: Path, saved: Path) -> None:
    assert load_if_same(tmp_path / "none.npz", BINDING) == (None, "measured: none.npz is not there yet")
    assert load_if_same(tmp_path, BINDING)[0] is None
    with np.load(saved) as arrays:
        content = dict(arrays)
    content["record"] = np.frombuffer(bytes(content["record"]).replace(b'"format": 1', b'"format": 9'), np.uint8)
    np.savez(saved, **content)
    assert "expected format 1, found 9" in load_if_same(saved, BINDING)[1]


def test_a_failed_write_leaves_the_old_file(saved: Path, measured: Make) -> None:
    before = saved.read_bytes()
    broken = measured(np.ones(3))
    broken.histogram = np.zeros(7, np.int64)
    with pytest.raises(ValueError, match="reshape"):
        save(saved, MeasuredStatistics({"tensor": broken}, 1), BINDING)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_hash_of_images_is_of_their_contents_in_any_order() -> None:
    assert images_hash(["a", "b"]) == images_hash(["b", "a"])
    assert len({images_hash(["a", "b"]), images_hash(["a"]), images_hash(["ab"]), images_hash([])}) == 4
