from __future__ import annotations

import math

import pytest

from hybrid_edge.export.quantize.gpu_graph import FP16_WARNING, ActivationPeaks

FP16_MAX = 65_504.0


def test_the_largest_over_all_sets_of_images_counts_and_the_head_does_not() -> None:
    found = ActivationPeaks.of([{"cnn/a": 3.0, "rnn/lstm_1/gates": 7.0}, {"cnn/a": 5.0, "logits": 1e6, "image": 1.0}])
    assert found.largest == {"cnn/a": 5.0, "rnn/lstm_1/gates": 7.0}
    assert found.wide == frozenset()
    assert found.warnings == ()


@pytest.mark.parametrize("peak", [FP16_MAX + 1, 1e30, math.inf])
def test_what_fp16_cannot_hold_stays_in_fp32_and_is_named(peak: float) -> None:
    found = ActivationPeaks.of([{"cnn/a": peak, "cnn/b": 4.0}])
    assert found.wide == {"cnn/a"}
    (line,) = found.warnings
    assert line.startswith("beyond FP16's 65,504, so these layers stay in FP32: cnn/a (")
    assert "cnn/b" not in line


def test_what_comes_near_the_end_is_warned_of_and_stays_in_fp16() -> None:
    found = ActivationPeaks.of([{"cnn/a": FP16_WARNING, "cnn/b": FP16_WARNING + 1, "cnn/c": FP16_MAX}])
    assert found.wide == frozenset()
    (line,) = found.warnings
    assert "above 16,000" in line
    assert "cnn/c (65,504), cnn/b (16,001)" in line
    assert "cnn/a" not in line


def test_a_weight_beyond_fp16_keeps_its_layer_in_fp32_and_is_said_with_its_own_size() -> None:
    found = ActivationPeaks.of([{"rnn/lstm_1/recurrent": 35_491.0, "cnn/a": 2.0}], {"rnn/lstm_1/recurrent": 1e5})
    assert found.wide == {"rnn/lstm_1/recurrent"}
    assert found.warnings == ("beyond FP16's 65,504, so these layers stay in FP32: rnn/lstm_1/recurrent (100,000)",)


def test_of_many_layers_the_five_largest_are_listed_and_the_others_counted() -> None:
    found = ActivationPeaks.of([{f"cnn/{number}": 1e5 + number for number in range(8)}])
    (line,) = found.warnings
    assert line.endswith(
        "cnn/7 (100,007), cnn/6 (100,006), cnn/5 (100,005), cnn/4 (100,004), cnn/3 (100,003), and 3 more"
    )
