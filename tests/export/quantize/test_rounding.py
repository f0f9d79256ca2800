from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from support.models.lowered import SMALL_RNN, error_of, logits_of, measured_source, randomize, tensors_of

from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.convert.graph_reading import quantizable, range_key
from hybrid_edge.export.quantize.calibration_graph import product_inputs
from hybrid_edge.export.quantize.int8_weights import Rounder, quantize_weight, round_for_inputs
from hybrid_edge.runtime.backends.onnxruntime import TensorSession

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
def test_products_of_inputs_not_measured_lose_a_third_at_most_of_what_nearest_integers_lose(
    weight: Float32, levels: int
) -> None:
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
