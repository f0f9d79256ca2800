"""Calibration: measures every activation of a graph over images, and chooses the ranges that INT8 covers.

In come an ONNX graph whose activations are outputs, image files and a ModelSpec; out come statistics in a file, bound
to the weights, images, preprocessing and graph that they were measured on, and a range for each tensor. Only runtime
may be imported here: this room must not know Keras, how a graph was written, or what its ranges are used for.

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
