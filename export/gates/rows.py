"""Measures how a batch's rows change when they are run in other batches, beside other rows, or with other sequences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...runtime.backends.base import Backend
from ...runtime.errors import BackendError
from .reference import BATCH

__all__ = ["Rows"]

Tensor = npt.NDArray[np.float32]

OTHER_BATCHES = (1, 3)
# factors of an outlier: inputs lie in [-1, 1], and a scale measured over the batch would follow it. The next lower one
# is taken where FP16 overflows in the outlier's own row, which backends refuse: that is no fault of the graph
OUTLIERS = (50.0, 10.0, 3.0)


class Rows:
    """Eight rows of a batch, run as one batch and in other ways.

    Args:
        backend: the backend that runs the rows.
        tensors: the backend's inputs; fewer rows than 8 are repeated from the start, more are cut off.
    """

    def __init__(self, backend: Backend, tensors: Mapping[str, Tensor]) -> None:
        self._backend = backend
        self._tensors = {name: np.resize(tensor, (BATCH, *tensor.shape[1:])) for name, tensor in tensors.items()}
        self._logits = backend.run(self._tensors).logits

    def batch_error(self) -> float:
        """Return the largest |difference| of a logit between batches of 1 or 3 and the batch of 8."""
        return max(
            _difference(self._backend.run(_part(self._tensors, rows)).logits, self._logits[rows])
            for size in OTHER_BATCHES
            for rows in _slices(size, BATCH)
        )

    def neighbour_error(self) -> float:
        """Return the largest |difference| of a logit when another row of its batch is far outside the inputs' range.

        Each row has an outlier as its neighbour once: in the first place for those behind it, in the last for those
        before it.
        """
        return max(
            _difference(self._beside_outlier(place)[others], self._logits[others])
            for place, others in ((0, slice(1, None)), (-1, slice(None, -1)))
        )

    def sequence_effect(self) -> float:
        """Return the largest |difference| of a logit when every image gets its neighbour's sequence."""
        swapped = {**self._tensors, "sequence": np.roll(self._tensors["sequence"], 1, axis=0)}
        return _difference(self._backend.run(swapped).logits, self._logits)

    def _beside_outlier(self, place: int) -> Tensor:
        for factor in OUTLIERS:
            tensors = {name: tensor.copy() for name, tensor in self._tensors.items()}
            for tensor in tensors.values():
                tensor[place] *= factor
            try:
                return self._backend.run(tensors).logits
            except BackendError as error:
                refused = error
        raise refused


def _difference(found: Tensor, expected: Tensor) -> float:
    return float(np.abs(found - expected).max())


def _part(tensors: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in tensors.items()}


def _slices(size: int, count: int) -> list[slice]:
    """Return slices of exactly ``size`` rows that cover ``count`` rows; the last ones may overlap."""
    return [slice(start, start + size) for start in (min(s, count - size) for s in range(0, count, size))]
