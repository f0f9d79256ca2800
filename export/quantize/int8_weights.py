"""Computes the scales and integers of INT8 from ranges and weights.

A weight rounded to the nearest integer errs by up to half a step, and inputs that vary together (the pixels of one
timestep, the hidden states of an LSTM) add these errors up; the steps of an LSTM do so again and again. So the weights
of matrix products are rounded one input after the other, and those still to come make up for each error, which keeps
x W where x is what the layer really takes (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", 2022, there for 3 and 4 bits). Integers and scales stay what they were in kind: nothing is
slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...calib import Range

LEVELS = 127  # the largest integer of a weight
# x86 without VNNI adds the products of two neighbouring weights and two unsigned bytes up in 16 bits, and saturates
# (vpmaddubsw): the largest byte times the largest sum of two neighbours is to fit, 255 * 128 < 2**15
MAX_PAIR_SUM = 128
# so much of it is left unused, so that no two halves are both rounded up, to 129 together; float32 errs by less than
# 2e-5 there
PAIR_MARGIN = 2.0**-10
MIN_SCALE = 2.0**-24  # FP16's smallest number; a scale must not become zero in FP16
MAX_BIAS = 2.0**30  # in units of its scale: half of int32, so that the convolution's sum still fits beside it

Float32 = npt.NDArray[np.float32]
DAMPING = 0.01  # of the mean square of an input: what was never seen to vary is not taken for constant
BLOCK = 128  # inputs that share a scale in ``quantize_blocks``: 32 take a tenth longer at batch 1, and twice at batch 8
BLOCK_ZERO = 128  # the byte that stands for 0 there, which is MatMulNBits's own
BLOCK_INPUTS = 128  # inputs whose errors are passed on among themselves before the rest is told


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight's integers and one scale for each index of ``axis``, its output channels: weight = integers * scales."""

    integers: npt.NDArray[np.int8]
    scales: npt.NDArray[np.floating]
    axis: int

    def restored(self) -> Float32:
        """Compute the weight that the integers stand for, float32."""
        shape = [-1 if index == self.axis else 1 for index in range(self.integers.ndim)]
        return np.asarray(self.integers * self.scales.astype(np.float32).reshape(shape), np.float32)


def quantize_weight(
    weight: Float32,
    axis: int,
    *,
    levels: int = LEVELS,
    paired: bool = False,
    dtype: npt.DTypeLike = np.float32,
    smallest: npt.ArrayLike = MIN_SCALE,
) -> QuantizedWeight:
    """Quantize a weight symmetrically, with a scale for each index of ``axis`` that puts the largest at the last level.

    The axis is that of the output channels: 0 of (O, I, H, W), 1 of (I, O). The scales are rounded up to ``dtype``
    first and the integers computed with what came of it: a coarse FP16 scale costs the last levels, and clips nothing.
    No scale is below ``smallest``, one for all channels or one for each.

    With ``paired`` two weights that a CPU adds up in 16 bits fit there with any two bytes: their integers' sum is then
    128 at most, and the scale as much larger as that takes (a third for 2048 normally distributed inputs, where 7 bits
    would double it).
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    least = np.abs(weight).max(axis=others).astype(np.float64) / levels
    if paired:
        least = np.maximum(
            least, np.abs(_pair_sums(weight, axis)).max(axis=1, initial=0) / (MAX_PAIR_SUM - PAIR_MARGIN)
        )
    scales = _rounded_up(np.maximum(np.maximum(least, smallest), MIN_SCALE), dtype)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    steps = weight / scales.astype(np.float32).reshape(shape)
    integers = np.clip(np.rint(steps, out=steps), -levels, levels, out=steps).astype(np.int8)
    return QuantizedWeight(integers, scales, axis)


def quantize_blocks(weight: Float32) -> tuple[npt.NDArray[np.uint8], Float32]:
    """Quantize a weight W (I, O) for MatMulNBits: bytes (O, blocks, ``BLOCK``) and scales (O, blocks).

    Each block of inputs has a scale for each output, which puts the largest at the lowest byte, and the last block is
    filled up with zeros. The operator rounds what it multiplies by blocks of its own, so that no range is measured.
    """
    blocks = np.pad(weight, ((0, -len(weight) % BLOCK), (0, 0))).reshape(-1, BLOCK, weight.shape[1])
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scales = (-largest / BLOCK_ZERO).astype(np.float32)
    scales[scales == 0] = MIN_SCALE
    integers = np.clip(np.rint(blocks / scales) + BLOCK_ZERO, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(integers.transpose(2, 0, 1)), np.ascontiguousarray(scales[:, 0].T)


def partner_limits(
    first: npt.NDArray[np.int8], levels: int = LEVELS
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Return the least and the largest integer that each second of a pair may have beside ``first``, of its shape."""
    partner = np.asarray(first, np.int16)
    return np.maximum(-MAX_PAIR_SUM - partner, -levels), np.minimum(MAX_PAIR_SUM - partner, levels)


def _pair_sums(weight: Float32, axis: int) -> npt.NDArray[np.float64]:
    """Sum the neighbouring weights that are added up together, 1 and 2, 3 and 4, ...: (O, pairs).

    Kernels go through a window's positions, and through the channels at each of them; so the order of a convolution's
    weights is (H, W, I). A last weight without a partner is left out.
    """
    rows = np.moveaxis(np.moveaxis(weight, axis, 0), 1, -1).reshape(weight.shape[axis], -1).astype(np.float64)
    return np.asarray(rows[:, 0 : rows.shape[1] - 1 : 2] + rows[:, 1::2])


def smallest_for_bias(bias: Float32, input_scale: float) -> npt.NDArray[np.float64]:
    """Return the least weight scale of each channel, (O,), at which its bias fits into int32."""
    return np.abs(bias).astype(np.float64) / (input_scale * MAX_BIAS)


def quantize_bias(bias: Float32, input_scale: float, weight: QuantizedWeight) -> tuple[npt.NDArray[np.int32], Float32]:
    """Return the bias in units of input scale * weight scale, as integer convolutions add it, and these units; (O,)."""
    scales = (input_scale * weight.scales.astype(np.float64)).astype(np.float32)
    return np.rint(bias.astype(np.float64) / scales).astype(np.int32), scales


def signed_scale(covered: Range, dtype: npt.DTypeLike) -> npt.NDArray[np.floating]:
    """Return the scale, a scalar of ``dtype``, of signed bytes that cover a range with their zero at 0."""
    largest = max(-covered.low, covered.high)
    return _rounded_up(np.maximum(largest / LEVELS, MIN_SCALE), dtype)


def unsigned_scale(covered: Range) -> tuple[Float32, npt.NDArray[np.uint8]]:
    """Return the scale and the zero point, both scalars, of unsigned bytes that cover a range."""
    scale = np.float32((covered.high - covered.low) / 255)
    return np.asarray(scale), np.asarray(np.clip(np.rint(-covered.low / scale), 0, 255), np.uint8)


def _rounded_up(scales: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[np.floating]:
    """Round scales up to ``dtype``: below 6e-5 FP16 has few digits, and one rounded down clips up to a third off."""
    exact = np.asarray(scales, np.float64)
    rounded = exact.astype(dtype)
    above = np.nextafter(rounded, np.asarray(np.inf, rounded.dtype))
    return np.asarray(np.where(rounded.astype(np.float64) < exact, above, rounded))


def bias_correction(
    weight: Float32, quantized: QuantizedWeight, means: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Compute what rounding the weights of a convolution takes from the mean of each output channel, (O,).

    Rounding errors average out over an image's positions, a shifted mean does not (Nagel et al., "Data-Free
    Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2). The weight is
    (O, I / groups, H, W), of a depthwise convolution (C, 1, H, W); ``means`` is the mean of each channel of the input,
    (I,).
    """
    lost = (weight - quantized.restored()).sum(axis=(2, 3), dtype=np.float64)
    groups = len(means) // lost.shape[1]
    if groups == 1:
        return np.asarray(lost @ means, np.float64)
    parts = lost.reshape(groups, -1, lost.shape[1]) * means.reshape(groups, 1, -1)
    return np.asarray(parts.sum(axis=2).reshape(-1), np.float64)


class Rounder:
    """Rounds the weights of products whose inputs were measured, each of them once.

    ``moments`` has the mean of x xᵀ, (I, I), of each tensor x that a product takes, by its ``range_key``.
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
        """Round the weight W (I, O) of a product x W to INT8, with a scale for each output.

        The name is the same for the same values; ``key`` is the ``range_key`` of x; ``levels``, ``paired`` and
        ``dtype`` are those of ``quantize_weight``.
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
    """Round a weight to integers (I, O) for inputs whose x xᵀ is ``moment`` (I, I) in the mean, with scales (O,).

    No integer is larger than ``levels``. ``paired``: those of two neighbouring inputs keep together what
    ``quantize_weight`` says; what that cuts off is made up for too.
    """
    share = _shares(moment)
    steps = scales.astype(np.float32)
    left = weight.astype(np.float32)
    integers = np.empty(weight.shape, np.int8)
    for first in range(0, len(weight), BLOCK_INPUTS):
        end = min(first + BLOCK_INPUTS, len(weight))
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
