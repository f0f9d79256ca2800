"""The table of devices against what their makers print."""

from __future__ import annotations

from pathlib import Path

import pytest
from hybrid_edge.runtime.roofline.bound import bound
from hybrid_edge.runtime.roofline.cost import BranchCost, Cost, Moved
from hybrid_edge.runtime.roofline.devices import ALIASES, DEVICES, predict_for
from hybrid_edge.runtime.roofline.rates import PREDICTED

from hybrid_edge.runtime.errors import UsageError

# INT8 TOPS and FP16 TFLOPS without sparsity and without DLA, FP32 TFLOPS, GB/s: as printed, a multiply-add is two
PRINTED = {
    "orin-nano-4": (10, 5, 0.64, 34),  # 20 TOPS with sparsity
    "orin-nano": (20, 10, 1.28, 68),
    "orin-nano-super": (33, 17, 2.08, 102),
    "orin-nx-8": (25, 12.5, 1.57, 102.4),  # 70 TOPS: 2 * 25 with sparsity, 20 of the DLA
    "orin-nx-16": (30, 15, 1.88, 102.4),  # 100 TOPS: 2 * 30, 40 of the DLAs
    "orin-nx-16-super": (38.5, 19, 2.4, 102.4),  # 157 TOPS: 2 * 38.5, 80 of the DLAs
    "agx-orin-32": (54, 27, 3.33, 204.8),  # 108 with sparsity on the GPU
    "agx-orin-64": (85, 42.5, 5.3, 204.8),  # 170 with sparsity on the GPU
    "thor": (517, 258.5, 8.06, 273),  # 1035 TFLOPS in FP8 and 517 in FP16, with sparsity
    "h200": (1979, 989.5, 67, 4800),
}


@pytest.mark.parametrize("name", PRINTED)
def test_rates_agree_with_what_the_maker_prints(name: str) -> None:
    rates = DEVICES[name]
    found = (*(2 * rates.gmacs[kind] / 1e3 for kind in ("int8", "fp16", "fp32")), rates.bandwidth_gbs)
    assert found == pytest.approx(PRINTED[name], rel=0.05)


@pytest.mark.parametrize("name", DEVICES)
def test_every_rate_has_a_source_and_its_bound_says_that_it_is_predicted(name: str) -> None:
    rates = predict_for(name)
    assert not rates.measured
    assert len(rates.source) > 40
    assert bound(Cost(head=BranchCost({"int8": 1}, (Moved(1, 1),))), rates).label == PREDICTED


def test_rates_are_for_the_variants_that_run_on_what_they_are_of() -> None:
    assert {name for name, rates in DEVICES.items() if rates.targets == ("cpu",)} == {"rpi5"}
    assert {rates.targets for name, rates in DEVICES.items() if name != "rpi5"} == {("cuda", "tensorrt")}


def test_the_documentation_lists_every_device_with_its_rates() -> None:
    text = (Path(__file__).parents[3] / "docs" / "bench-limits.md").read_text()
    for name, rates in DEVICES.items():
        tera = [f"{2 * rates.gmacs[kind] / 1e3:.4g}" for kind in ("fp32", "fp16", "int8")]
        cells = (f"`{name}`", rates.name, *tera, f"{rates.bandwidth_gbs:g}", f"{(rates.cache_bytes or 0) / 2**20:g}")
        assert f"| {' | '.join(cells)} |" in text
    assert all(f"`{name}`" in text for name in ALIASES)


def test_a_name_without_a_size_is_the_larger_module() -> None:
    assert predict_for("orin-nx") is DEVICES["orin-nx-16"]
    assert predict_for("agx-orin") is DEVICES["agx-orin-64"]
    assert not ALIASES.keys() & DEVICES.keys()


def test_an_unknown_device_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"orin-nano-super.*agx-orin.*found 'jetson'"):
        predict_for("jetson")


def test_recurrent_weights_bound_a_jetson_by_its_memory() -> None:
    """The reference model's two states of 2048 in FP16, read 22 times each from 68 and 102 GB/s."""
    state = 2 * 2048 * 8192
    cost = Cost(head=BranchCost(), recurrent=BranchCost({"fp16": 1_856_446_464}, (Moved(state, 22), Moved(state, 22))))
    slow, fast = (bound(cost, DEVICES[name]) for name in ("orin-nano", "orin-nano-super"))
    assert slow.limited_by["recurrent"] == fast.limited_by["recurrent"] == "memory"
    assert slow.ms == pytest.approx(2 * 22 * state / 68e6, rel=0.07)  # 2 MiB of each can stay
    assert slow.ms / fast.ms == pytest.approx(102 / 68)
