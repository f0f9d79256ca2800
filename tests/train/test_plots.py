"""The pictures of a run, of classes with any name."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np

from hybrid_edge.train.evaluation import plot_class_rates, plot_confusion

LABELS = ("a$_$b", "猫", "plain")


def test_class_names_are_drawn_as_they_are_whatever_is_in_them(tmp_path: Path) -> None:
    rates = [{"label": label, "images": 3, "top1": 0.5, "top5": 1.0} for label in LABELS]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(np.eye(3, dtype=np.int64), LABELS, tmp_path / "confusion.png")
        plot_class_rates(rates, tmp_path / "classes.png")
    for name in ("confusion.png", "classes.png"):
        assert cv2.imread(str(tmp_path / name)).std() > 0
