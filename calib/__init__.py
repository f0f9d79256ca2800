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

from .images import CalibrationImages, choose_images, read_batches
from .measure import (
    SURVEYED_IMAGES,
    Calibration,
    ChannelStatistics,
    Peaks,
    calibrate,
    measure_channels,
    measure_peaks,
    measure_statistics,
    second_moments,
)
from .methods import METHODS, Method, Range, choose_range
from .statistics import TensorStatistics
from .statistics_file import Binding

__all__ = [
    "METHODS",
    "SURVEYED_IMAGES",
    "Binding",
    "Calibration",
    "CalibrationImages",
    "ChannelStatistics",
    "Method",
    "Peaks",
    "Range",
    "TensorStatistics",
    "calibrate",
    "choose_images",
    "choose_range",
    "measure_channels",
    "measure_peaks",
    "measure_statistics",
    "read_batches",
    "second_moments",
]
