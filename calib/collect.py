"""A graph run over batches of images, and the statistics of every tensor that it gives."""

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
        session: the graph; what is to be measured inside it is among its outputs.
        batches: the graph's inputs by name, any number of rows each.
        on_batch: told after each batch how many rows it had.

    Returns:
        Statistics by the tensor's name: the graph's inputs, then its outputs. Empty where there was no batch.

    Raises:
        CalibrationError: a tensor is not floating point, or not finite.
        BackendError: ONNX Runtime failed.
    """
    statistics: dict[str, TensorStatistics] = {}
    for tensors in batches:
        _add(statistics, {name: tensors[name] for name in session.inputs})
        _add(statistics, session.run(tensors))  # no name for it: the next batch would be computed beside this one
        if on_batch is not None:
            on_batch(len(next(iter(tensors.values()))))
    return statistics


def collect_peaks(
    session: TensorSession, batches: Iterable[Mapping[str, Tensor]], *, on_batch: Callable[[int], None] | None = None
) -> dict[str, float]:
    """The largest |value| of each tensor that a graph gives, and of nothing else: a third of the work of ``collect``.

    Args and errors as in ``collect``.
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
