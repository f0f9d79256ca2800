"""Runs a graph over batches of images and measures every tensor that it takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.backends.onnxruntime import TensorSession
from .statistics import TensorStatistics, require_finite

__all__ = ["collect", "collect_peaks"]

Tensor = npt.NDArray[np.float32]


def collect(
    session: TensorSession, batches: Iterable[Mapping[str, Tensor]], *, on_batch: Callable[[int], None] | None = None
) -> dict[str, TensorStatistics]:
    """Measure a graph's inputs and outputs; never more than one batch is held.

    Args:
        session: the loaded graph, whose outputs include every tensor to be measured.
        batches: the graph's inputs by name, any number of rows each.
        on_batch: called after each batch with its number of rows.

    Returns:
        Statistics by the tensor's name: the graph's inputs, then its outputs. Without a batch the dict is empty.

    Raises:
        CalibrationError: a tensor is not floating point, or not finite.
        BackendError: ONNX Runtime failed.
    """
    statistics: dict[str, TensorStatistics] = {}
    for tensors in batches:
        _add(statistics, {name: tensors[name] for name in session.inputs})
        # the outputs have no name here: one would keep them in memory while the next batch's are computed
        _add(statistics, session.run(tensors))
        if on_batch is not None:
            on_batch(len(next(iter(tensors.values()))))
    return statistics


def collect_peaks(
    session: TensorSession, batches: Iterable[Mapping[str, Tensor]], *, on_batch: Callable[[int], None] | None = None
) -> dict[str, float]:
    """Return the largest |value| of each output of a graph, by its name: a third of the work of ``collect``.

    The arguments and errors are those of ``collect``.
    """
    peaks: dict[str, float] = {}
    for tensors in batches:
        for name, values in session.run(tensors).items():
            low, high = float(values.min()), float(values.max())  # NaN comes through both
            peaks[name] = require_finite(name, max(-low, high, peaks.get(name, 0.0)))
        if on_batch is not None:
            on_batch(len(next(iter(tensors.values()))))
    return peaks


def _add(statistics: dict[str, TensorStatistics], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, values in tensors.items():
        if name not in statistics:
            statistics[name] = TensorStatistics(name)
        statistics[name].update(values)
