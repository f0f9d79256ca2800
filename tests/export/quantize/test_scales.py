from __future__ import annotations

import numpy as np
import pytest

from hybrid_edge.calib import Range
from hybrid_edge.export.quantize.int8_weights import (
    LEVELS,
    bias_correction,
    quantize_bias,
    quantize_weight,
    signed_scale,
    smallest_for_bias,
    unsigned_scale,
)

RNG = np.random.default_rng(0)
KERNEL = (RNG.normal(size=(6, 4, 3, 3)) * np.array([1, 0.1, 0.01, 1, 5, 30]).reshape(6, 1, 1, 1)).astype(np.float32)


@pytest.mark.parametrize("levels", [7, LEVELS])
@pytest.mark.parametrize(("weight", "axis"), [(KERNEL, 0), (KERNEL.reshape(6, -1).T, 1)])
def test_each_channel_has_the_finest_scale_that_holds_it(weight: np.ndarray, axis: int, levels: int) -> None:
    quantized = quantize_weight(weight, axis, levels=levels)
    others = tuple(index for index in range(weight.ndim) if index != axis)
    assert quantized.integers.dtype == np.int8
    np.testing.assert_array_equal(np.abs(quantized.integers.astype(int)).max(axis=others), levels)
    scales = quantized.scales.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
    assert (np.abs(quantized.integers * scales - weight) <= 0.501 * scales).all()


def pair_sums(integers: np.ndarray, axis: int) -> np.ndarray:
    """(O, pairs) of a weight, in the order of the window's positions and then of the channels."""
    rows = integers.astype(int).T if axis else integers.astype(int).transpose(0, 2, 3, 1)
    rows = rows.reshape(len(rows), -1)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    return np.asarray(rows[:, ::2] + rows[:, 1::2])


@pytest.mark.parametrize(("weight", "axis"), [(KERNEL, 0), (KERNEL[:, :3], 0), (KERNEL.reshape(6, -1).T, 1)])
def test_paired_weights_take_the_finest_scale_at_which_neighbours_fit_into_16_bits_together(
    weight: np.ndarray, axis: int
) -> None:
    quantized = quantize_weight(weight, axis, paired=True)
    sums = pair_sums(quantized.integers, axis)
    assert (
        255 * np.abs(sums).max() < 2**15 <= 255 * np.abs(pair_sums(quantize_weight(weight, axis).integers, axis)).max()
    )
    scales = quantized.scales.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
    assert (np.abs(quantized.integers * scales - weight) <= 0.501 * scales).all()  # nothing was cut off for it
    others = tuple(index for index in range(weight.ndim) if index != axis)
    full = (np.abs(quantized.integers.astype(int)).max(axis=others) == LEVELS) | (np.abs(sums).max(axis=1) >= 127)
    assert full.all()


def test_a_pair_that_fills_16_bits_exactly_is_not_rounded_beyond_them() -> None:
    """Both of two halves, rounded up, would be one too many."""
    first = np.arange(64, 127, dtype=np.float32) + np.float32(0.5)
    weight = np.stack([first, 128 - first, *np.zeros((2, len(first)), np.float32)])
    for sign in (1, -1):
        for factor in np.random.default_rng(3).uniform(1e-3, 10, 50):
            integers = quantize_weight((sign * factor * weight).astype(np.float32), 1, paired=True).integers
            assert np.abs(pair_sums(integers, 1)).max() <= 128


def test_a_channel_of_zeros_stays_zero_with_a_scale_that_fp16_holds() -> None:
    weight = KERNEL.copy()
    weight[2] = 0
    quantized = quantize_weight(weight, 0, dtype=np.float16)
    assert not quantized.integers[2].any()
    assert quantized.integers[1].any()
    assert (quantized.scales > 0).all()


@pytest.mark.parametrize("largest", [3.0, 1e-3, 1e-4, 2e-5, 1.2e-5, 1e-5])
def test_a_coarse_fp16_scale_clips_nothing(largest: float) -> None:
    """Below 6e-5 FP16 has few digits: a scale rounded down there would cut off up to a third of the largest weight."""
    weight = (KERNEL / np.abs(KERNEL).max(axis=(1, 2, 3), keepdims=True) * largest).astype(np.float32)
    quantized = quantize_weight(weight, 0, dtype=np.float16)
    scales = quantized.scales.astype(np.float32).reshape(-1, 1, 1, 1)
    assert quantized.scales.dtype == np.float16
    assert (np.abs(quantized.integers * scales - weight) <= 0.501 * scales).all()


@pytest.mark.parametrize("largest", [2.0**-20, 1e-5, 1e-3, 1.0, 60_000.0])
def test_a_signed_scale_holds_the_largest_value_in_fp16_too(largest: float) -> None:
    for dtype in (np.float16, np.float32):
        scale = signed_scale(Range(-largest, largest / 2), dtype)
        assert scale.dtype == dtype
        assert scale.shape == ()
        # smallest number of FP16: a range below 127 of them is stretched
        assert largest <= LEVELS * float(scale) <= max(1.1 * largest, 2 * LEVELS * 2.0**-24)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-0.6, 5.0), (-3.0, 0.0), (-1.0, 1.0), (0.0, 1e-5)])
def test_an_unsigned_byte_covers_its_range_and_has_zero_among_its_values(low: float, high: float) -> None:
    scale, zero = unsigned_scale(Range(low, high))
    values = (np.arange(256) - int(zero)) * float(scale)
    assert zero.dtype == np.uint8
    assert 0.0 in values
    assert values[0] == pytest.approx(low, abs=0.51 * float(scale))
    assert values[-1] == pytest.approx(high, abs=0.51 * float(scale))


def test_a_large_bias_beside_small_weights_fits_into_int32() -> None:
    """In units of input scale * weight scale the bias of a dead channel would be 10^12, and come out as another."""
    bias = np.array([50, -50, 0.3, 0, 1, 2], np.float32)
    weight = KERNEL.copy()
    weight[0] = 0
    weight[1] *= 1e-8
    input_scale = 1e-3
    quantized = quantize_weight(weight, 0, smallest=smallest_for_bias(bias, input_scale))
    integers, scales = quantize_bias(bias, input_scale, quantized)
    assert integers.dtype == np.int32
    assert np.abs(integers.astype(np.int64)).max() <= 2**30 + 2**10
    assert (np.abs(integers * scales.astype(np.float64) - bias) <= 0.51 * scales + 1e-6 * np.abs(bias)).all()
    # the guard costs a channel of ordinary weights nothing
    np.testing.assert_array_equal(quantized.scales[2:], quantize_weight(weight, 0).scales[2:])


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_corrected_bias_makes_up_for_what_rounding_takes_from_the_mean(depthwise: bool) -> None:
    weight = KERNEL[:, :1] if depthwise else KERNEL
    quantized = quantize_weight(weight, 0, levels=7)  # coarse, so that there is something to make up for
    means = RNG.uniform(0.5, 2, 6 if depthwise else 4)

    def mean(kernel: np.ndarray) -> np.ndarray:
        """Of each output channel: the convolution of an image that is its own mean everywhere."""
        shape = (6, 1) if depthwise else (1, 4)
        return np.asarray((kernel.astype(np.float64) * means.reshape(*shape, 1, 1)).sum(axis=(1, 2, 3)))

    lost = mean(weight) - mean(quantized.restored())
    assert np.abs(lost).max() > 0.01
    np.testing.assert_allclose(bias_correction(weight, quantized, means), lost, rtol=1e-5, atol=1e-6)


def test_a_restored_weight_is_what_its_integers_stand_for() -> None:
    for axis in (0, 1):
        quantized = quantize_weight(KERNEL, axis, dtype=np.float16)
        shape = [-1 if index == axis else 1 for index in range(4)]
        scales = quantized.scales.astype(np.float32).reshape(shape)
        assert quantized.restored().dtype == np.float32
        assert (np.abs(quantized.restored() - KERNEL) <= 0.501 * scales).all()
