import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hybrid_edge.export.gates.reliability_diagram import write_diagrams
from hybrid_edge.export.gates.temperature import (
    MIN_LABELLED,
    calibration_error,
    fit_temperature,
    measure_temperature,
    reliability,
)
from hybrid_edge.runtime.frame import Outputs
from hybrid_edge.runtime.manifest import Temperature

Logits = npt.NDArray[np.float32]


def calibrated(images: int, classes: int = 10, seed: int = 0) -> tuple[Logits, npt.NDArray[np.int64]]:
    """Logits whose softmax is exactly how probable each label is, and labels drawn by it."""
    random = np.random.default_rng(seed)
    logits = (2 * random.standard_normal((images, classes))).astype(np.float32)
    probabilities = Outputs(logits, logits).at_temperature(1.0).probabilities
    bounds = probabilities.cumsum(axis=1)
    return logits, (random.random((images, 1)) > bounds).sum(axis=1).clip(0, classes - 1)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_logits_that_are_too_large_or_small_get_their_factor_as_temperature(factor: float) -> None:
    logits, labels = calibrated(8000)
    found = measure_temperature(factor * logits, labels)
    assert isinstance(found, Temperature)
    assert found.value == pytest.approx(factor, rel=0.05)
    assert found.error_after < 0.02
    if factor != 1.0:
        assert found.error_before > 0.1


def test_the_fitted_temperature_has_the_lowest_loss_of_a_fine_grid() -> None:
    logits, labels = calibrated(300, seed=3)
    scaled = 2 * logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(temperature: float) -> float:
        return float((np.log(np.exp(scaled / temperature).sum(axis=1)) - scaled[rows, labels] / temperature).mean())

    found = fit_temperature(2 * logits, labels)
    assert loss(found) <= min(loss(temperature) for temperature in np.geomspace(0.1, 10, 500)) + 1e-9


def test_bins_hold_counts_confidence_and_accuracy_and_their_gaps_make_the_error() -> None:
    probabilities = np.array([[0.9, 0.1], [0.94, 0.06], [0.45, 0.55], [0.0, 1.0]], np.float32)
    bins = reliability(probabilities, np.array([0, 1, 1, 1]))
    assert sum(item.images for item in bins) == 4
    assert (bins[8].images, bins[8].confidence, bins[8].accuracy) == (1, pytest.approx(0.55), 1.0)
    assert (bins[13].images, bins[13].accuracy) == (1, 1.0)  # 0.9 lies in [13/15, 14/15)
    assert (bins[14].images, bins[14].confidence) == (2, pytest.approx(0.97))  # and 1.0 in the last
    assert calibration_error(bins) == pytest.approx((0.45 + 0.1 + 2 * abs(0.97 - 0.5)) / 4)


def test_the_error_after_is_not_judged_on_what_it_was_fitted_on() -> None:
    logits, labels = calibrated(200, seed=1)
    order = np.random.default_rng(0).permutation(200)
    mixed = np.full((200, 1), 4.0, np.float32)
    mixed[order[::2]] = 10.0  # one half of the images needs 2.5 times the other's temperature
    found = measure_temperature(mixed * logits, labels)
    at_all = Outputs(mixed * logits, logits).at_temperature(found.value).probabilities
    assert found.error_after > calibration_error(reliability(at_all, labels)) + 0.02


def test_where_the_error_would_be_no_smaller_the_temperature_is_1() -> None:
    """Of a model that is about as sure as it is right, chance makes some temperatures better and some worse."""
    kept = [
        item for seed in range(20) if isinstance(item := measure_temperature(*calibrated(200, seed=seed)), Temperature)
    ]
    assert len(kept) == 20
    for item in kept:
        assert (item.error_after < item.error_before) == (item.value != 1.0)
        assert item.value != 1.0 or (item.error_after, item.after) == (item.error_before, item.before)
    assert 0 < sum(isinstance(item, Temperature) and item.value == 1.0 for item in kept) < 20


def test_images_without_a_known_label_count_for_nothing_and_few_are_refused() -> None:
    logits, labels = calibrated(MIN_LABELLED)
    unknown = np.full(50, -1)
    found = measure_temperature(np.concatenate([logits, 100 * logits[:50]]), np.concatenate([labels, unknown]))
    assert found == measure_temperature(logits, labels)
    assert isinstance(found, Temperature)
    assert found.images == MIN_LABELLED
    reason = measure_temperature(logits[1:], labels[1:])
    assert reason == "99 of the images have a label, and it needs 100; --images DIR names more"
    assert "0 of the images" in str(measure_temperature(logits, np.full(len(logits), -1)))


@pytest.mark.parametrize("right", [True, False])
def test_where_every_image_or_none_is_right_there_is_no_temperature(*, right: bool) -> None:
    logits, _ = calibrated(200)
    labels = logits.argmax(axis=1) if right else logits.argmin(axis=1)
    reason = measure_temperature(logits, labels)
    assert (
        reason
        == f"{0 if right else 200} of 200 images are wrong: too few, or too many, to tell how sure the model may be"
    )


def test_a_temperature_keeps_the_order_and_makes_probabilities_of_the_largest_logits() -> None:
    logits = np.array([[3e38, -3e38, 1.0], [5.0, 4.0, 3.0]], np.float32)
    found = Outputs(logits, logits).at_temperature(0.05)
    assert found.logits is logits
    assert found.probabilities.dtype == np.float32
    assert found.probabilities.sum(axis=1) == pytest.approx([1, 1])
    assert found.probabilities[0].tolist() == [1, 0, 0]
    assert found.probabilities[1, 0] == pytest.approx(1 / (1 + math.exp(-20) + math.exp(-40)))


def test_the_diagram_has_a_row_for_variants_of_one_temperature_and_goes_where_there_is_none(tmp_path: Path) -> None:
    import cv2

    logits, labels = calibrated(500)
    one, other = (measure_temperature(factor * logits, labels) for factor in (2.0, 3.0))
    assert isinstance(one, Temperature)
    assert isinstance(other, Temperature)
    path = tmp_path / "reliability.png"
    sizes = []
    for shown in ({"fp32-cpu": one, "fp32-cuda": one}, {"fp32-cpu": one, "int8-cpu": other}):
        assert write_diagrams(path, shown) == path
        sizes.append(cv2.imread(str(path)).shape[0])
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=2)
    assert write_diagrams(path, {}) is None
    assert not path.exists()
