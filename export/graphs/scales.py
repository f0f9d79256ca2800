"""From ranges and weights to the scales and integers of INT8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...calib import Range

__all__ = [
    "BITS_7",
    "BITS_8",
    "QuantizedWeight",
    "bias_correction",
    "quantize_bias",
    "quantize_weight",
    "signed_scale",
    "smallest_for_bias",
    "unsigned_scale",
]

BITS_8 = 127
# two products of a 7-bit weight and an unsigned byte fit into 16 bits, where x86 without VNNI adds them up in
BITS_7 = 63
SMALLEST = 2.0**-24  # of FP16; a scale must not become zero in it
WIDEST_BIAS = 2.0**30  # in units of its scale: half of int32, so that the convolution's sum still fits beside it

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """Integers, and one scale for each output channel: weight = integers * scales."""

    integers: npt.NDArray[np.int8]
    scales: npt.NDArray[np.floating]
    axis: int

    def restored(self) -> Float32:
        """The weight that the integers stand for."""
        shape = [-1 if index == self.axis else 1 for index in range(self.integers.ndim)]
        return np.asarray(self.integers * self.scales.astype(np.float32).reshape(shape), np.float32)


def quantize_weight(
    weight: Float32,
    axis: int,
    *,
    levels: int = BITS_8,
    dtype: npt.DTypeLike = np.float32,
    smallest: npt.ArrayLike = SMALLEST,
) -> QuantizedWeight:
    """Symmetric, a scale for each index of ``axis``, the largest weight at the last level.

    The scales are rounded up to ``dtype`` first and the integers computed with what came of it: a coarse FP16 scale
    costs the last levels, and clips nothing.

    Args:
        weight: of any shape.
        axis: of the output channels.
        levels: the largest integer: 127, or 63 for 7 bits.
        dtype: of the scales.
        smallest: least scale, one for all channels or one each.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others).astype(np.float64)
    scales = _rounded_up(np.maximum(np.maximum(largest / levels, smallest), SMALLEST), dtype)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    steps = weight / scales.astype(np.float32).reshape(shape)
    integers = np.clip(np.rint(steps, out=steps), -levels, levels, out=steps).astype(np.int8)
    return QuantizedWeight(integers, scales, axis)


def smallest_for_bias(bias: Float32, input_scale: float) -> npt.NDArray[np.float64]:
    """The least weight scale of each channel at which its bias fits into int32."""
    return np.abs(bias).astype(np.float64) / (input_scale * WIDEST_BIAS)


def quantize_bias(bias: Float32, input_scale: float, weight: QuantizedWeight) -> tuple[npt.NDArray[np.int32], Float32]:
    """The bias in units of input scale * weight scale, as integer convolutions add it; and these units."""
    scales = (input_scale * weight.scales.astype(np.float64)).astype(np.float32)
    return np.rint(bias.astype(np.float64) / scales).astype(np.int32), scales


def signed_scale(covered: Range, dtype: npt.DTypeLike) -> npt.NDArray[np.floating]:
    """Scale of a signed byte with zero at 0, a scalar of ``dtype``."""
    largest = max(-covered.low, covered.high)
    return _rounded_up(np.maximum(largest / BITS_8, SMALLEST), dtype)


def unsigned_scale(covered: Range) -> tuple[Float32, npt.NDArray[np.uint8]]:
    """Scale and zero point of an unsigned byte that covers a range, scalars."""
    scale = np.float32((covered.high - covered.low) / 255)
    return np.asarray(scale), np.asarray(np.clip(np.rint(-covered.low / scale), 0, 255), np.uint8)


def _rounded_up(scales: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[np.floating]:
    """FP16 has few digits below 6e-5; a scale rounded down there would clip the largest values by up to a third."""
    exact = np.asarray(scales, np.float64)
    rounded = exact.astype(dtype)
    above = np.nextafter(rounded, np.asarray(np.inf, rounded.dtype))
    return np.asarray(np.where(rounded.astype(np.float64) < exact, above, rounded))


def bias_correction(
    weight: Float32, quantized: QuantizedWeight, means: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What rounding the weights of a convolution takes from the mean of each output channel, (O,).

    Rounding errors average out over an image's positions, a shifted mean does not (Nagel et al., "Data-Free
    Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2).

    Args:
        weight: (O, I, H, W); (C, 1, H, W) of a depthwise convolution.
        quantized: the same, rounded.
        means: of the input's channels, (I,) or (C,).
    """
    lost = (weight - quantized.restored()).sum(axis=(2, 3), dtype=np.float64)
    return np.asarray(lost[:, 0] * means if lost.shape[1] == 1 and len(means) > 1 else lost @ means, np.float64)
