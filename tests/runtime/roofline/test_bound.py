"""Bounds against arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hybrid_edge.runtime.roofline.bound import bound
from hybrid_edge.runtime.roofline.cost import BranchCost, Cost, Moved
from hybrid_edge.runtime.roofline.rates import PREDICTED, Rates

from hybrid_edge.runtime.errors import UsageError

# 1e6 MAC at 1 GMAC/s take 1 ms, and so do 1e6 bytes at 1 GB/s
RATES = Rates("a machine", {"fp32": 1.0, "int8": 4.0}, 1.0, None, None, "made up", measured=True)
MILLION = 10**6


def head(macs: int = 0, size: int = 0) -> Cost:
    return Cost(head=BranchCost({"fp32": macs}, (Moved(size, 1),) if size else ()))


def repeated(size: int, times: int) -> Cost:
    return Cost(head=BranchCost(), recurrent=BranchCost({}, (Moved(size, times),)))


def cached(size: int, rate: float | None = 10.0) -> Rates:
    return replace(RATES, cache_bytes=size, cache_bandwidth_gbs=rate)


def test_a_branch_takes_as_long_as_its_products_or_its_bytes_whichever_is_longer() -> None:
    compute, memory = bound(head(3 * MILLION, 2 * MILLION), RATES), bound(head(3 * MILLION, 5 * MILLION), RATES)
    assert (compute.ms, compute.limited_by) == (3, {"head": "arithmetic"})
    assert (memory.ms, memory.limited_by) == (5, {"head": "memory"})
    assert (memory.arithmetic_ms, memory.memory_ms) == ({"head": 3}, {"head": 5})


def test_branches_add_up_and_overlapped_they_take_the_longer_sum() -> None:
    cost = Cost(
        head=BranchCost(),
        cnn=BranchCost({"fp32": 8 * MILLION}, (Moved(MILLION, 1),)),
        recurrent=BranchCost({}, (Moved(5 * MILLION, 1),)),
    )
    found = bound(cost, RATES)
    assert found.by_branch == {"cnn": 8, "recurrent": 5, "head": 0}
    assert (found.ms, found.overlapped_ms) == (13, 8)


def test_each_arithmetic_has_its_own_rate_and_a_missing_one_that_of_the_next_wider() -> None:
    cost = Cost(head=BranchCost({"fp32": MILLION, "fp16": MILLION, "int8": 4 * MILLION}))
    assert bound(cost, RATES).ms == 1 + 1 + 1
    assert bound(cost, replace(RATES, gmacs={"fp32": 1.0, "fp16": 2.0})).ms == 1 + 0.5 + 2


def test_a_batch_multiplies_what_an_image_costs_and_reads_its_weights_once() -> None:
    cost = Cost(head=BranchCost({"fp32": MILLION}, (Moved(7 * MILLION, 1),), (Moved(MILLION, 2),)))
    found = {batch: bound(cost, RATES, batch) for batch in (1, 4, 8)}
    assert [item.memory_ms["head"] for item in found.values()] == [7 + 2, 7 + 8, 7 + 16]
    assert [item.arithmetic_ms["head"] for item in found.values()] == [1, 4, 8]
    assert found[8].images_per_second == pytest.approx(8 / 23e-3)


def test_a_recurrent_weight_is_read_at_each_step_from_memory_unless_it_fits_the_cache() -> None:
    cost = repeated(4 * MILLION, 22)
    assert bound(cost, RATES).ms == 4 * 22
    # the model is in the cache from the batch before
    assert bound(cost, cached(4 * MILLION)).ms == pytest.approx(4 * 22 / 10)
    # a quarter of it can stay: of each read three quarters come from memory
    assert bound(cost, cached(MILLION)).ms == pytest.approx(22 * (3 + 1 / 10))


def test_the_weights_of_the_whole_model_must_fit_to_be_there_from_the_batch_before() -> None:
    cost = Cost(
        head=BranchCost(),
        cnn=BranchCost({}, (Moved(6 * MILLION, 1),)),
        recurrent=BranchCost({}, (Moved(2 * MILLION, 11),)),
    )
    found = bound(cost, cached(2 * MILLION))
    # 8 MB of weights, 2 of which can have stayed; the recurrent ones then stay for their ten other reads
    assert found.by_branch["cnn"] == pytest.approx(6 * (3 / 4 + 1 / 4 / 10))
    assert found.by_branch["recurrent"] == pytest.approx(2 * (3 / 4 + 1 / 4 / 10) + 10 * 2 / 10)


def test_an_activation_that_fits_the_cache_moves_at_its_rate_until_the_batch_is_too_large() -> None:
    cost = Cost(head=BranchCost({}, (), (Moved(MILLION, 4),)))
    rates = cached(2 * MILLION)
    assert bound(cost, rates, 2).ms == pytest.approx(8 / 10)
    assert bound(cost, rates, 4).ms == pytest.approx(4 * 4 * (1 / 2 + 1 / 2 / 10))


def test_where_the_rate_of_the_cache_is_not_known_what_stays_in_it_costs_nothing() -> None:
    assert bound(repeated(4 * MILLION, 22), cached(4 * MILLION, None)).ms == 0
    assert bound(repeated(4 * MILLION, 22), cached(MILLION, None)).ms == pytest.approx(22 * 3)


def test_what_fits_the_nearer_caches_costs_nothing() -> None:
    rates = replace(cached(4 * MILLION), near_bytes=MILLION)
    assert bound(repeated(MILLION, 22), rates).ms == 0
    # of what fits the last cache a quarter stays nearer; of what fits neither, all else moves at its own rate
    assert bound(repeated(4 * MILLION, 22), rates).ms == pytest.approx(22 * 3 / 10)
    assert bound(repeated(8 * MILLION, 22), rates).ms == pytest.approx(22 * (4 + 3 / 10))
    assert bound(repeated(4 * MILLION, 22), replace(RATES, near_bytes=MILLION)).ms == pytest.approx(22 * 3)


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_larger_cache_or_a_faster_memory_never_lengthens_the_bound(batch: int) -> None:
    cost = Cost(
        head=BranchCost({"fp32": 9}, (Moved(100, 1),)),
        cnn=BranchCost({"int8": 10**5}, (Moved(3 * MILLION, 1),), (Moved(MILLION, 9), Moved(MILLION // 8, 40))),
        recurrent=BranchCost({"int8": 10**4}, (Moved(5 * MILLION, 22), Moved(2 * MILLION, 1)), (Moved(1000, 50),)),
    )
    sizes = [size * MILLION // 4 for size in range(1, 200, 7)]
    times = [bound(cost, cached(size), batch).ms for size in sizes]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]
    faster = bound(cost, replace(cached(MILLION), bandwidth_gbs=2.0), batch)
    assert faster.ms < bound(cost, cached(MILLION), batch).ms


def test_how_close_a_measured_time_comes_and_what_stands_beside_it() -> None:
    found = bound(head(3 * MILLION), RATES)
    assert (found.reached(3), found.reached(12)) == (1, 0.25)
    assert "measured on this machine" in found.label
    assert bound(head(MILLION), replace(RATES, measured=False)).label == PREDICTED == "predicted bound, not measured"


def test_no_image_is_refused() -> None:
    with pytest.raises(UsageError, match="found 0"):
        bound(head(1), RATES, 0)


@pytest.mark.parametrize(
    "changes",
    [{"gmacs": {"int8": 1.0}}, {"gmacs": {"fp32": 0.0}}, {"bandwidth_gbs": -1.0}, {"cache_bytes": 0}],
)
def test_rates_that_can_not_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="a machine"):
        replace(RATES, **changes)
