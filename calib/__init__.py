"""Calibration images -> statistics of every activation, bound to the weights, images and preprocessing measured on.

from hybrid_edge.calib import calibrate, choose_images, choose_range

images = choose_images(candidates, validation=held_out)
calibration = calibrate(graph, images, spec, weights, folder / "ranges.npz")
low, high = choose_range(calibration.statistics["cnn/Conv"], "entropy", symmetric=True)
"""

from __future__ import annotations

from .collect import collect
from .images import CalibrationImages, choose_images, read_batches
from .measure import Calibration, calibrate, calibration_bar, measure, measure_peaks
from .methods import METHODS, Method, Range, choose_range
from .moments import second_moments
from .ranges import Binding, Measured, images_hash, load_if_same, save
from .statistics import TensorStatistics
from .survey import SURVEYED, Survey, survey

__all__ = [
    "METHODS",
    "SURVEYED",
    "Binding",
    "Calibration",
    "CalibrationImages",
    "Measured",
    "Method",
    "Range",
    "Survey",
    "TensorStatistics",
    "calibrate",
    "calibration_bar",
    "choose_images",
    "choose_range",
    "collect",
    "images_hash",
    "load_if_same",
    "measure",
    "measure_peaks",
    "read_batches",
    "save",
    "second_moments",
    "survey",
]
