from __future__ import annotations

import numpy as np
import pytest

from hybrid_edge.export.gates.comparison import class_indices, paired_accuracy, paired_interval


def test_the_interval_is_bonett_and_prices() -> None:
    # f00 = 12, f01 = 4, f10 = 26, f11 = 6: the example of statpsych's ci.prop.ps, which implements the paper
    assert paired_interval(26, 4, 48) == pytest.approx((0.2548067, 0.6251933), abs=1e-7)


def test_no_disagreement_is_no_proof_that_there_is_none() -> None:
    low, high = paired_interval(0, 0, 300)
    assert low == -high
    assert 0.008 < high < 0.013  # the exact upper bound of 0 of 300 is 0.0122


def test_the_interval_stays_within_what_a_difference_can_be() -> None:
    assert paired_interval(3, 0, 3)[1] == 1
    assert paired_interval(0, 3, 3)[0] == -1


def test_the_interval_covers_the_true_difference_at_its_level_where_few_disagree() -> None:
    rng = np.random.default_rng(0)
    lost, gained = 0.02, 0.01
    drawn = rng.multinomial(300, [lost, gained, 1 - lost - gained], size=4000)
    intervals = np.array([paired_interval(int(a), int(b), 300) for a, b, _ in drawn])
    covered = (intervals[:, 0] <= lost - gained) & (lost - gained <= intervals[:, 1])
    assert 0.94 < covered.mean() < 0.985


def test_the_drop_is_exact_so_that_one_of_200_is_within_half_a_point() -> None:
    truth = np.zeros(200, np.int64)
    keras, variant = truth.copy(), truth.copy()
    keras[:53], variant[:54] = 1, 1
    accuracy = paired_accuracy(keras, variant, truth, max_drop=0.005)
    assert accuracy.drop == 0.005  # 0.735 - 0.73 is more
    assert (accuracy.keras, accuracy.variant, accuracy.max_drop) == (0.735, 0.73, 0.005)


def test_a_variant_may_be_right_where_keras_is_not() -> None:
    truth = np.array([0, 1, 2, 3])
    accuracy = paired_accuracy(np.array([0, 0, 0, 0]), np.array([0, 1, 2, 0]), truth)
    assert (accuracy.keras, accuracy.variant, accuracy.drop) == (0.25, 0.75, -0.5)
    assert accuracy.drop_low < -0.5 < accuracy.drop_high


def test_a_label_that_is_no_class_has_no_index() -> None:
    assert class_indices(["b", "", "a", "z"], ("a", "b")).tolist() == [1, -1, 0, -1]
    assert class_indices(["caf\xe9", "cafe\u0301"], ("tea", "cafe\u0301")).tolist() == [1, 1], "in either form"
