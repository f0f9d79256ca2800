import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("keras")

from hybrid_edge.train.evaluation import Evaluation, plot_class_rates, plot_confusion

PERCENT = [[60, 20, 10, 5, 3, 2], [10, 50, 20, 10, 6, 4], [30, 30, 10, 10, 10, 10], [40, 30, 10, 9, 6, 5]]
PROBABILITIES = np.array(PERCENT, np.float32) / 100


def measured(truth: list[int]) -> Evaluation:
    return Evaluation(PROBABILITIES, np.array(truth, dtype=np.int32))


def test_ranks_count_the_classes_ahead_of_the_true_one() -> None:
    assert measured([0, 0, 1, 5]).ranks.tolist() == [0, 2, 1, 5]


def test_equal_probabilities_rank_in_the_order_of_the_classes_as_argmax_does() -> None:
    assert measured([0, 1, 0, 0]).ranks.tolist() == [0, 0, 0, 0]
    assert measured([0, 1, 1, 0]).ranks.tolist() == [0, 0, 1, 0]


def test_an_answer_that_is_not_a_number_is_wrong() -> None:
    result = Evaluation(np.full((4, 6), np.nan, dtype=np.float32), np.array([0, 1, 2, 5], dtype=np.int32))
    assert (result.top(1), result.top(5)) == (0.0, 0.0)


def test_top_1_and_top_5() -> None:
    result = measured([0, 0, 1, 5])
    assert result.top(1) == 0.25
    assert result.top(5) == 0.75


def test_the_confusion_matrix_has_true_classes_in_rows() -> None:
    matrix = measured([0, 0, 1, 5]).confusion
    assert np.argwhere(matrix).tolist() == [[0, 0], [0, 1], [1, 0], [5, 0]]
    assert matrix.sum() == 4


def test_class_rates_say_none_for_a_class_without_images() -> None:
    rates = measured([0, 0, 1, 5]).class_rates(tuple("abcdef"))
    assert rates[0] == {"label": "a", "images": 2, "top1": 0.5, "top5": 1.0}
    assert rates[2] == {"label": "c", "images": 0, "top1": None, "top5": None}
    assert rates[5]["top5"] == 0.0


def test_the_loss_is_the_mean_cross_entropy() -> None:
    expected = -np.log([0.6, 0.1, 0.3, 0.05]).mean()
    assert measured([0, 0, 1, 5]).loss == pytest.approx(expected, rel=1e-5)
    assert measured([0, 0, 1, 5]).value("val_loss") == pytest.approx(expected, rel=1e-5)
    assert measured([0, 0, 1, 5]).value("val_top5") == 0.75


def test_class_names_are_drawn_as_they_are_whatever_is_in_them(tmp_path: Path) -> None:
    labels = ("a$_$b", "猫", "x" * 240)
    rates = [{"label": label, "images": 3, "top1": 0.5, "top5": 1.0} for label in labels]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(np.eye(3, dtype=np.int64), labels, tmp_path / "confusion.png")
        plot_class_rates(rates, tmp_path / "classes.png")
    for name in ("confusion.png", "classes.png"):
        assert cv2.imread(str(tmp_path / name)).std() > 0
