from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybrid_edge.calib import Binding, TensorStatistics
from hybrid_edge.calib.statistics_file import MeasuredStatistics, images_hash, load_if_same, save

Make = Callable[..., TensorStatistics]
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
