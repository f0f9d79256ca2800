import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.models.bundles import make_bundle

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError, UsageError
from hybrid_edge.runtime.manifest import parse_manifest
from hybrid_edge.runtime.roofline import PUBLISHED, BranchCost, Cost, Rates, WeightReads, limit_of, rates_of

# 1e6 MAC at 1 GMAC/s take 1 ms, and so do 1e6 bytes at 1 GB/s
RATES = Rates("a machine", {"fp32": 1.0, "int8": 4.0}, 1.0, None, None, "made up", measured=True)
MILLION = 10**6
DEVICES = [line.split(",")[0].split()[0] for line in PUBLISHED.read_text().splitlines()[1:]]


def head(macs: int = 0, size: int = 0) -> Cost:
    return Cost(head=BranchCost({"fp32": macs}, (WeightReads(size, 1),) if size else ()))


def repeated(size: int, times: int) -> Cost:
    return Cost(head=BranchCost(), recurrent=BranchCost({}, (WeightReads(size, times),)))


def cached(size: int, rate: float | None = 10.0) -> Rates:
    return replace(RATES, cache_bytes=size, cache_bandwidth_gbs=rate)


def test_a_branch_takes_as_long_as_its_products_or_its_bytes_whichever_is_longer() -> None:
    compute, memory = (limit_of(head(3 * MILLION, size * MILLION), RATES, 1) for size in (2, 5))
    assert (compute.ms, compute.limited_by) == (3, {"head": "arithmetic"})
    assert (memory.ms, memory.limited_by) == (5, {"head": "memory"})


def test_branches_add_up_and_overlapped_they_take_the_longer_sum() -> None:
    cost = Cost(
        head=BranchCost(),
        cnn=BranchCost({"fp32": 8 * MILLION}, (WeightReads(MILLION, 1),)),
        recurrent=BranchCost({}, (WeightReads(5 * MILLION, 1),)),
    )
    found = limit_of(cost, RATES)
    assert found.by_branch == {"cnn": 8, "recurrent": 5, "head": 0}
    assert (found.ms, found.overlapped_ms) == (13, 8)


def test_each_arithmetic_has_its_own_rate_and_a_missing_one_that_of_fp32() -> None:
    cost = Cost(head=BranchCost({"fp32": MILLION, "fp16": MILLION, "int8": 4 * MILLION}))
    assert limit_of(cost, RATES).ms == 1 + 1 + 1
    assert limit_of(cost, replace(RATES, gmacs={"fp32": 1.0, "fp16": 2.0})).ms == 1 + 0.5 + 4


def test_a_batch_multiplies_what_an_image_costs_and_reads_its_weights_once() -> None:
    cost = Cost(head=BranchCost({"fp32": MILLION}, (WeightReads(7 * MILLION, 1),)))
    found = {batch: limit_of(cost, RATES, batch) for batch in (1, 4, 8)}
    assert [item.ms for item in found.values()] == [7, 7, 8]
    assert [limit_of(cost, replace(RATES, bandwidth_gbs=1e9), batch).ms for batch in found] == pytest.approx([1, 4, 8])


def test_a_recurrent_weight_is_read_at_each_step_from_memory_unless_it_fits_the_cache() -> None:
    cost = repeated(4 * MILLION, 22)
    assert limit_of(cost, RATES).ms == 4 * 22
    # the model is in the cache from the batch before
    assert limit_of(cost, cached(4 * MILLION)).ms == pytest.approx(4 * 22 / 10)
    # a quarter of it can stay: of each read three quarters come from memory
    assert limit_of(cost, cached(MILLION)).ms == pytest.approx(22 * (3 + 1 / 10))


def test_the_weights_of_the_whole_model_must_fit_to_be_there_from_the_batch_before() -> None:
    cost = Cost(
        head=BranchCost(),
        cnn=BranchCost({}, (WeightReads(6 * MILLION, 1),)),
        recurrent=BranchCost({}, (WeightReads(2 * MILLION, 11),)),
    )
    found = limit_of(cost, cached(2 * MILLION))
    # 8 MB of weights, 2 of which can have stayed; the recurrent ones then stay for their ten other reads
    assert found.by_branch["cnn"] == pytest.approx(6 * (3 / 4 + 1 / 4 / 10))
    assert found.by_branch["recurrent"] == pytest.approx(2 * (3 / 4 + 1 / 4 / 10) + 10 * 2 / 10)


def test_where_the_rate_of_the_cache_is_not_known_what_stays_in_it_costs_nothing() -> None:
    assert limit_of(repeated(4 * MILLION, 22), cached(4 * MILLION, None)).ms == 0
    assert limit_of(repeated(4 * MILLION, 22), cached(MILLION, None)).ms == pytest.approx(22 * 3)


def test_what_fits_the_nearer_caches_costs_nothing() -> None:
    rates = replace(cached(4 * MILLION), near_bytes=MILLION)
    assert limit_of(repeated(MILLION, 22), rates).ms == 0
    # of what fits the last cache a quarter stays nearer; of what fits neither, all else moves at its own rate
    assert limit_of(repeated(4 * MILLION, 22), rates).ms == pytest.approx(22 * 3 / 10)
    assert limit_of(repeated(8 * MILLION, 22), rates).ms == pytest.approx(22 * (4 + 3 / 10))
    assert limit_of(repeated(4 * MILLION, 22), replace(RATES, near_bytes=MILLION)).ms == pytest.approx(22 * 3)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_larger_cache_or_a_faster_memory_never_lengthens_the_limit(batch: int) -> None:
    cost = Cost(
        head=BranchCost({"fp32": 9}, (WeightReads(100, 1),)),
        cnn=BranchCost({"int8": 10**5}, (WeightReads(3 * MILLION, 1),)),
        recurrent=BranchCost({"int8": 10**4}, (WeightReads(5 * MILLION, 22), WeightReads(2 * MILLION, 1))),
    )
    sizes = [size * MILLION // 4 for size in range(1, 200, 7)]
    times = [limit_of(cost, cached(size), batch).ms for size in sizes]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]
    faster = limit_of(cost, replace(cached(MILLION), bandwidth_gbs=2.0), batch)
    assert faster.ms < limit_of(cost, cached(MILLION), batch).ms


COST = Cost(
    head=BranchCost({"fp32": 40}, (WeightReads(100, 1),)),
    recurrent=BranchCost({"int8": 300, "fp16": 20}, (WeightReads(1000, 22), WeightReads(2000, 22), WeightReads(50, 1))),
)


@pytest.fixture
def manifest(tmp_path: Path) -> dict[str, Any]:
    found = Bundle.open(make_bundle(tmp_path / "bundle")).manifest
    variants = tuple(item.model_copy(update={"cost": COST}) for item in found.variants)
    content: dict[str, Any] = json.loads(found.model_copy(update={"variants": variants}).model_dump_json())
    return content


def read_cost(manifest: dict[str, Any]) -> Cost | None:
    return parse_manifest(json.dumps(manifest).encode()).variants[0].cost


def test_a_manifest_gives_back_the_cost_it_was_given_though_later_versions_add_to_it(manifest: dict[str, Any]) -> None:
    assert read_cost(manifest) == COST
    cost = manifest["variants"][0]["cost"]
    cost |= {"added": 1, "head": cost["head"] | {"added": {}}}
    assert read_cost(manifest) == COST
    del manifest["variants"][0]["cost"]
    assert read_cost(manifest) is None, "a bundle from before costs were recorded still loads"


@pytest.mark.parametrize(
    "head", [{"macs": {"fp32": -1}}, {"macs": {"fp8": 1}}, {"weights": [{"bytes": -4, "times": 1}]}]
)
def test_a_cost_that_can_not_be_is_refused_with_the_manifest(manifest: dict[str, Any], head: dict[str, Any]) -> None:
    manifest["variants"][0]["cost"] = {"head": head}
    with pytest.raises(BundleError, match=r"cost\.head"):
        read_cost(manifest)


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
    rates = rates_of(name)
    found = (*(2 * rates.gmacs[kind] / 1e3 for kind in ("int8", "fp16", "fp32")), rates.bandwidth_gbs)
    assert found == pytest.approx(PRINTED[name], rel=0.05)


# multiply-accumulates of one multiprocessor a clock
PER_CLOCK = {"xavier-nx": (64, 512, 1024), "thor": (128, 4096, 8192)}
ORIN = (128, 1024, 2048)


@pytest.mark.parametrize("name", DEVICES)
def test_every_rate_has_a_source_from_which_it_follows_and_its_bound_says_that_it_is_predicted(name: str) -> None:
    rates = rates_of(name)
    assert not rates.measured
    assert len(rates.source) > 40
    assert rates.label == "predicted bound, not measured"
    if found := re.match(r"(\d+) multiprocessors at (\d+) MHz; NVIDIA", rates.source):
        gmacs = int(found[1]) * int(found[2]) / 1e3
        assert list(rates.gmacs.values()) == pytest.approx([gmacs * count for count in PER_CLOCK.get(name, ORIN)])
    else:
        assert name in ("h200", "rpi5")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("orin-nano-super", "announcement of the Orin Nano Super"),
        ("orin-nx-16-super", "announcement of JetPack 6.2"),
        ("orin-nx-8", "Orin NX series data sheet"),
        ("agx-orin-64", "AGX Orin series technical brief"),
        ("thor", "Thor series data sheet"),
    ],
)
def test_the_source_is_the_publication_that_the_device_s_rates_are_from(name: str, source: str) -> None:
    assert source in rates_of(name).source


def test_rates_are_for_the_variants_that_run_on_what_they_are_of() -> None:
    targets = {name: rates_of(name).targets for name in DEVICES}
    assert targets == {name: ("cpu",) if name == "rpi5" else ("cuda", "tensorrt") for name in DEVICES}


def test_the_documentation_lists_every_device_with_its_rates() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bench-limits.md").read_text()
    for name, rates in ((name, rates_of(name)) for name in DEVICES):
        tera = [f"{2 * rates.gmacs[kind] / 1e3:.4g}" for kind in ("fp32", "fp16", "int8")]
        cells = (f"`{name}`", rates.name, *tera, f"{rates.bandwidth_gbs:g}", f"{(rates.cache_bytes or 0) / 2**20:g}")
        assert f"| {' | '.join(cells)} |" in text
    assert all(f"`{name}`" in text for name in ("orin-nx", "agx-orin"))


def test_a_name_without_a_size_is_the_larger_module() -> None:
    assert rates_of("orin-nx") == rates_of("orin-nx-16")
    assert rates_of("agx-orin") == rates_of("agx-orin-64")


def test_an_unknown_device_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"orin-nano-super.*agx-orin.*found 'jetson'"):
        rates_of("jetson")
