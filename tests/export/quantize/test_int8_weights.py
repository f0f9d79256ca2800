import numpy as np
import numpy.typing as npt
import onnx
import pytest
from support.models.lowered import SMALL_RNN, error_of, logits_of, measured_source, randomize, tensors_of

from hybrid_edge.calib import Range
from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize, set_versions
from hybrid_edge.export.convert.graph_reading import quantizable, range_key
from hybrid_edge.export.convert.graph_writer import GraphWriter
from hybrid_edge.export.quantize.calibration_graph import product_inputs
from hybrid_edge.export.quantize.int8_weights import (
    LEVELS,
    Rounder,
    bias_correction,
    quantize_bias,
    quantize_blocks,
    quantize_weight,
    round_for_inputs,
    signed_scale,
    smallest_for_bias,
    unsigned_scale,
)
from hybrid_edge.runtime.backends.onnxruntime import TensorSession

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
def test_paired_weights_take_the_finest_scale_where_neighbours_fit_into_16_bits(weight: np.ndarray, axis: int) -> None:
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


Float32 = npt.NDArray[np.float32]


def alike(rows: int, width: int, seed: int) -> Float32:
    """Inputs that vary together, as neighbouring pixels do: few directions and a little noise."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(width // 8, width))
    values = rng.normal(size=(rows, width // 8)) @ directions + 0.05 * rng.normal(size=(rows, width))
    return np.asarray(values, np.float32)


def lost(weight: Float32, integers: npt.NDArray[np.int8], scales: npt.NDArray[np.floating], inputs: Float32) -> float:
    expected = inputs @ weight
    return float(np.sqrt(((inputs @ (integers * scales.astype(np.float32)) - expected) ** 2).mean()))


@pytest.fixture
def weight() -> Float32:
    return np.random.default_rng(1).normal(size=(200, 48)).astype(np.float32)  # more inputs than one block holds


@pytest.mark.parametrize("levels", [127, 63])
def test_products_of_unseen_inputs_lose_at_most_a_third_of_nearest_integers_loss(weight: Float32, levels: int) -> None:
    seen, unseen = alike(2000, 200, 2), alike(500, 200, 3)
    plain = quantize_weight(weight, 1, levels=levels)
    better = round_for_inputs(weight, plain.scales, seen.T @ seen / len(seen), levels)
    assert lost(weight, better, plain.scales, unseen) < lost(weight, plain.integers, plain.scales, unseen) / 3
    assert np.abs(better).max() <= levels


def test_paired_weights_stay_within_16_bits_whatever_is_passed_on_to_them(weight: Float32) -> None:
    seen, unseen = alike(2000, 200, 2), alike(500, 200, 3)
    moment = seen.T @ seen / len(seen)
    plain = quantize_weight(weight, 1, paired=True)
    alone = round_for_inputs(weight, plain.scales, moment).astype(int)
    paired = Rounder({"x": moment}).round("w", weight, "x", paired=True).integers
    assert (
        255 * np.abs(paired[::2].astype(int) + paired[1::2]).max()
        < 2**15
        <= 255 * np.abs(alone[::2] + alone[1::2]).max()
    )
    assert lost(weight, paired, plain.scales, unseen) < lost(weight, plain.integers, plain.scales, unseen) / 3


def test_independent_inputs_of_one_size_leave_the_nearest_integers(weight: Float32) -> None:
    plain = quantize_weight(weight, 1)
    np.testing.assert_array_equal(round_for_inputs(weight, plain.scales, np.eye(200, dtype=np.float32)), plain.integers)


@pytest.mark.parametrize("moment", [np.zeros((200, 200), np.float32), np.ones((200, 200), np.float32)])
def test_inputs_that_are_always_zero_or_all_the_same_are_no_division_by_zero(weight: Float32, moment: Float32) -> None:
    plain = quantize_weight(weight, 1)
    integers = round_for_inputs(weight, plain.scales, moment)
    assert np.abs(integers.astype(int) - plain.integers).max() <= 127
    if not moment.any():
        np.testing.assert_array_equal(integers, plain.integers)


def test_a_weight_whose_input_was_not_measured_goes_to_the_nearest_integers(weight: Float32) -> None:
    plain = quantize_weight(weight, 1, levels=63)
    found = Rounder({"other": np.eye(200, dtype=np.float32)}).round("w", weight, "x", levels=63)
    np.testing.assert_array_equal(found.integers, plain.integers)


@pytest.mark.parametrize("inputs", [256, 200])
def test_onnx_runtime_restores_weights_in_blocks_to_within_half_a_step(inputs: int) -> None:
    kernel = np.random.default_rng(1).normal(size=(inputs, 48)).astype(np.float32)
    kernel[:, 7] = 0
    integers, scales = quantize_blocks(kernel)
    assert integers.shape == (48, 2, 128)
    assert scales.shape == (48, 2)
    steps = np.repeat(np.abs(scales.T), 128, axis=0)[:inputs]
    # a block of one value is rounded to nothing else; the largest of the other sign has no integer
    off = np.abs(in_blocks(np.eye(inputs, dtype=np.float32), integers, scales) - kernel)
    assert (off > 0.51 * steps).mean() < 0.01
    assert (off <= 1.01 * steps).all()


def in_blocks(values: Float32, integers: npt.NDArray[np.uint8], scales: Float32) -> Float32:
    """Values times a weight in blocks, by ONNX Runtime's own operator."""
    outputs, inputs = len(scales), values.shape[1]
    writer = GraphWriter("product")
    writer.input("x", (inputs,))
    constants = [writer.constant("integers", integers), writer.constant("scales", scales)]
    sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": 128, "accuracy_level": 4}
    writer.node("MatMulNBits", ["x", *constants], "y", domain="com.microsoft", **sizes)
    writer.output("y", (outputs,))
    set_versions(writer.model, 17, 8)
    writer.model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with TensorSession(serialize(writer.model), threads=1) as session:
        return np.asarray(session.run({"x": values})["y"])


def test_each_width_of_scales_has_its_own_integers(weight: Float32) -> None:
    inputs = alike(1000, 200, 2)
    rounder = Rounder({"x": inputs.T @ inputs / 1000})
    wide, narrow = (rounder.round("w", weight, "x", dtype=dtype) for dtype in (np.float32, np.float16))
    assert narrow.scales.dtype == np.float16
    for item in (wide, narrow):
        plain = quantize_weight(weight, 1, dtype=item.scales.dtype)
        assert lost(weight, item.integers, item.scales, inputs) < lost(weight, plain.integers, plain.scales, inputs) / 3
    assert rounder.round("w", weight, "x") is wide


def test_an_lstm_in_int8_stays_nearer_to_fp32_when_its_weights_are_rounded_for_its_inputs() -> None:
    from hybrid_edge.train.model import build_model

    spec = SMALL_RNN.replace(rnn_units=64)
    model = build_model(spec)
    randomize(model)
    builder = GraphBuilder(model, spec)
    source = measured_source(spec, {"unrolled": builder.build("unrolled")})
    part = product_inputs(source.forms["unrolled"])
    products = [node for nodes in quantizable(source.forms["unrolled"]).values() for node in nodes]
    assert {value.name for value in part.graph.output} == {range_key(node.input[0]) for node in products}
    moments = {}
    with TensorSession(serialize(part), threads=1) as session:
        for name, values in session.run(tensors_of(spec, 64, seed=5)).items():
            flat = values.reshape(-1, values.shape[-1])
            moments[name] = flat.T @ flat / len(flat)
    tensors = tensors_of(spec, 48)
    expected = logits_of(source.forms["unrolled"], tensors)
    for variant in ("int8-cpu", "int8-tensorrt"):
        plain = logits_of(source.lower(variant, "unrolled"), tensors, variant)
        better = logits_of(source.lower(variant, "unrolled", rounder=Rounder(moments)), tensors, variant)
        assert np.std(better - expected) < 0.8 * np.std(plain - expected), (variant, error_of(plain, expected))
