"""A first look at a graph's activations: their size and RMS, and the peak of each channel."""

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

SURVEYED = 100  # images: peaks of channels and RMS are settled by then, ranges are not

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Survey:
    """What ``survey`` measured.

    Attributes:
        statistics: of every output of the graph, by name.
        channel_peaks: the largest |value| of each channel, (C,) float32, of the tensors that were asked for.
        channel_means: the mean of each channel, (C,) float64, likewise.
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
    """Run a graph over images, one batch at a time.

    Args:
        graph: ONNX file or its bytes; what is to be measured inside it is among its outputs.
        paths: image files; those that can't be read are passed over.
        spec: whose preprocessing.
        channels: outputs (N, C, …) whose channels are measured one by one.
        threads: of ONNX Runtime.
        on_batch: told after each batch how many images it had.

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
