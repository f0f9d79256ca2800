"""What one pass over images measures of one tensor, batch after batch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .images import BATCH
from .statistics import TensorStatistics, require_finite

Float32 = npt.NDArray[np.float32]


class TensorMeasure(Protocol):
    """Measures one tensor, batch after batch."""

    def update(self, values: npt.NDArray[Any], /) -> None:
        """Add the values of one batch; the array is written over later."""


class TensorPeak:
    """The largest |value| of a tensor, and with ``channels`` of each channel of (N, C, …), (C,)."""

    def __init__(self, name: str, *, channels: bool) -> None:
        self.name = name
        self.largest = 0.0
        self.channels: Float32 | None = np.zeros(1, np.float32) if channels else None

    def update(self, values: npt.NDArray[Any]) -> None:
        """Add the values of one batch; CalibrationError says that one is not finite."""
        if self.channels is None:
            peak = max(-float(values.min()), float(values.max()))  # NaN comes through both
        else:
            self.channels = np.maximum(self.channels, _channel_peaks(values))
            peak = float(self.channels.max())
        self.largest = max(require_finite(self.name, peak), self.largest)


class ChannelledStatistics:
    """The statistics of a tensor, with ``channels`` their peaks, and with ``means`` the sums of their means too."""

    def __init__(self, name: str, *, channels: bool, means: bool = False) -> None:
        self.statistics = TensorStatistics(name)
        self.channels: Float32 | None = np.zeros(1, np.float32) if channels else None
        self.sums: npt.NDArray[np.float64] = np.zeros(1)
        self._means = channels and means

    def update(self, values: npt.NDArray[Any]) -> None:
        """Add the values of one batch; CalibrationError says that one is not finite."""
        self.statistics.update(values)
        if self.channels is not None:
            self.channels = np.maximum(self.channels, _channel_peaks(values))
        if self._means:
            rest = (0, *range(2, values.ndim))
            self.sums = self.sums + values.mean(axis=rest, dtype=np.float64) * len(values)


class SecondMoments:
    """The mean of x xᵀ over the rows of a tensor (…, N, F)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sum: Float32 = np.zeros((1, 1), np.float32)
        self._rows = 0

    @property
    def mean(self) -> Float32:
        """The mean over all rows so far, (F, F)."""
        return np.asarray(self._sum / self._rows, np.float32)

    def update(self, values: npt.NDArray[Any]) -> None:
        """Add the values of one batch; CalibrationError says that one is not finite."""
        require_finite(self._name, float(np.abs(values).max()))
        for start in range(0, values.shape[-2], BATCH):  # of so many images at a time: a sum of floats loses the less
            flat = np.asarray(values[..., start : start + BATCH, :], np.float32).reshape(-1, values.shape[-1])
            product: Float32 = flat.T @ flat
            product += self._sum
            self._sum = product
            self._rows += len(flat)


def _channel_peaks(values: npt.NDArray[Any]) -> Float32:
    """Return the largest |value| of each channel of (N, C, …), (C,); NaN comes through."""
    rows = values.reshape(*values.shape[:2], -1)
    # along the last axis first, whose values lie beside each other: many times as fast as along two at once
    return np.asarray(np.maximum(rows.max(axis=2).max(axis=0), -rows.min(axis=2).min(axis=0)), np.float32)
