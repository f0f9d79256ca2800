"""Rounds weights of matrix products so that their products keep their values, not each weight for itself.

A weight rounded to the nearest integer errs by up to half a step, and inputs that vary together (the pixels of one
timestep, the hidden states of an LSTM) add these errors up; the steps of an LSTM do so again and again. Rounding one
input's weights after the other and letting those still to come make up for each error keeps x W where x is what the
layer really takes (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022, there for 3 and 4 bits). Integers and scales stay what they were in kind: nothing is slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .scales import LEVELS, QuantizedWeight, partner_limits, quantize_weight

__all__ = ["Rounder", "round_for_inputs"]


DAMPING = 0.01  # of the mean square of an input: what was never seen to vary is not taken for constant
BLOCK = 128  # inputs whose errors are passed on among themselves before the rest is told


class Rounder:
    """Rounds the weights of products whose inputs were measured, each of them once.

    Args:
        moments: the mean of x xᵀ, (I, I), of each tensor x that a product takes, by its ``range_key``.
    """

    def __init__(self, moments: Mapping[str, Float32] | None = None) -> None:
        self._moments = moments or {}
        self._done: dict[tuple[str, int, bool, str], QuantizedWeight] = {}

    def round(
        self,
        name: str,
        weight: Float32,
        key: str,
        *,
        levels: int = LEVELS,
        paired: bool = False,
        dtype: npt.DTypeLike = np.float32,
    ) -> QuantizedWeight:
        """Round a weight to INT8, with a scale for each output.

        Args:
            name: the weight's name, the same for the same values.
            weight: the weight W of a product x W, (I, O).
            key: the ``range_key`` of x.
            levels: the largest integer that a weight may become.
            paired: whether pairs of weights fit into 16 bits, as for ``quantize_weight``.
            dtype: the dtype of the scales.
        """
        plain = quantize_weight(weight, 1, levels=levels, paired=paired, dtype=dtype)
        if key not in self._moments:
            return plain
        asked = (name, levels, paired, np.dtype(dtype).name)
        if asked not in self._done:
            integers = round_for_inputs(weight, plain.scales, self._moments[key], levels, paired=paired)
            self._done[asked] = replace(plain, integers=integers)
        return self._done[asked]


def round_for_inputs(
    weight: Float32,
    scales: npt.NDArray[np.floating],
    moment: Float32,
    levels: int = LEVELS,
    *,
    paired: bool = False,
) -> npt.NDArray[np.int8]:
    """Round a weight to integers (I, O) for inputs whose x xᵀ is ``moment`` in the mean.

    Args:
        weight: the weight, (I, O).
        scales: the scale of each output, (O,).
        moment: the mean of x xᵀ, (I, I).
        levels: the largest integer that a weight may become.
        paired: the integers of two neighbouring inputs keep together what ``quantize_weight`` says; what that cuts off
            is made up for too.
    """
    share = _shares(moment)
    steps = scales.astype(np.float32)
    left = weight.astype(np.float32)
    integers = np.empty(weight.shape, np.int8)
    for first in range(0, len(weight), BLOCK):
        end = min(first + BLOCK, len(weight))
        errors = np.empty((end - first, weight.shape[1]), np.float32)
        for row in range(first, end):
            low, high = partner_limits(integers[row - 1], levels) if paired and row % 2 else (-levels, levels)
            rounded = np.clip(np.rint(left[row] / steps), low, high)
            integers[row] = rounded
            error = (left[row] - rounded * steps) / share[row, row]
            left[row + 1 : end] -= np.outer(share[row, row + 1 : end], error)
            errors[row - first] = error
        left[end:] -= share[first:end, end:].T @ errors
    return integers


def _shares(moment: Float32) -> Float32:
    """Compute how much of an input's error each later one makes up for: the inverse's upper Cholesky factor."""
    damped = moment.astype(np.float64)
    mean = float(np.mean(np.diag(damped))) or 1.0
    damped[np.diag_indices_from(damped)] += DAMPING * mean
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T, np.float32)
