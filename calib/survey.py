"""Takes a first look at a graph's activations: their statistics, and the peak and mean of each channel."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..runtime.backends.onnxruntime import TensorSession
from ..runtime.errors import CalibrationError
from ..runtime.spec import ModelSpec
from .images import read_batches
from .measure import batch_size
from .statistics import TensorStatistics

__all__ = ["SURVEYED", "Survey", "survey"]

SURVEYED = 100  # images: so many settle the channels' peaks and the RMS, but not the ranges

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Survey:
    """What ``survey`` measured.

    Attributes:
        statistics: the statistics of every output of the graph, by its name.
        channel_peaks: the largest |value| of each channel, (C,) float32, by the name of each tensor asked for.
        channel_means: the mean of each channel, (C,) float64, by the same names.
    """

    statistics: dict[str, TensorStatistics]
    channel_peaks: dict[str, Float32]
    channel_means: dict[str, Float64]


def survey(
    graph: Path | bytes,
    paths: Collection[Path],
    spec: ModelSpec,
    channels: Collection[str],
    *,
    threads: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Survey:
    """Run a graph over images, one batch at a time, and measure its outputs.

    Args:
        graph: an ONNX file or its bytes, whose outputs include every tensor to be measured.
        paths: image files; those that can't be read are passed over.
        spec: says how the images are preprocessed.
        channels: outputs (N, C, …) whose channels are measured one by one.
        threads: how many threads ONNX Runtime may use.
        on_batch: called after each batch with its number of images.

    Raises:
        CalibrationError: no image can be read, or an activation is not finite.
        BackendError: ONNX Runtime refused the graph, or failed.
    """
    statistics: dict[str, TensorStatistics] = {}
    peaks: dict[str, Float32] = {}
    sums: dict[str, Float64] = {}
    count = 0
    with TensorSession(graph, threads=threads) as session:
        for tensors in read_batches(paths, spec, batch=batch_size(spec), on_skip=lambda _: None):
            for name, values in session.run(tensors).items():
                statistics.setdefault(name, TensorStatistics(name)).update(values)
                if name in channels:
                    rest = (0, *range(2, values.ndim))
                    peaks[name] = np.maximum(peaks.get(name, np.float32(0)), np.abs(values).max(axis=rest))
                    sums[name] = sums.get(name, 0) + values.mean(axis=rest, dtype=np.float64) * len(values)
            count += len(next(iter(tensors.values())))
            if on_batch is not None:
                on_batch(len(next(iter(tensors.values()))))
    if not statistics:
        raise CalibrationError(
            f"expected images to calibrate on, found none that can be read of {len(paths)}. Name a folder of images "
            "with --calib DIR"
        )
    return Survey(statistics, peaks, {name: total / count for name, total in sums.items()})
