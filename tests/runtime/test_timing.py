from collections.abc import Callable

import numpy as np
import pytest

from hybrid_edge.runtime.timing import time_bursts, time_interleaved


class Clock:
    """Time that passes only when a call takes it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, *seconds: float) -> Callable[[], None]:
        """A callable that takes these times in turn, the last one for ever."""
        left = list(seconds)

        def call() -> None:
            self.called.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_rounds_are_interleaved_and_their_order_alternates() -> None:
    clock = Clock()
    calls = {name: clock.taking(name, 0.001) for name in "abc"}
    time_interleaved(calls, warm_up_s=0, min_seconds=0, min_rounds=4, clock=clock)
    assert "".join(clock.called) == "abc" + "abc" + "cba" + "abc" + "cba"


def test_the_warm_up_is_by_time_and_does_not_count() -> None:
    clock = Clock()
    calls = {"cold": clock.taking("cold", 5.0, 1.0, 0.125), "warm": clock.taking("warm", 0.125)}
    timings = time_interleaved(calls, warm_up_s=5.5, min_seconds=0, min_rounds=10, clock=clock)
    assert timings["cold"].p99 == 125
    assert clock.called.count("cold") == 2 + 10
    assert clock.called.count("warm") == 44 + 10


def test_rounds_go_on_for_so_long_and_so_many() -> None:
    clock = Clock()
    slow = time_interleaved({"x": clock.taking("x", 1.0)}, warm_up_s=0, min_seconds=0.1, min_rounds=7, clock=clock)
    fast = time_interleaved({"x": clock.taking("x", 0.01)}, warm_up_s=0, min_seconds=0.995, min_rounds=7, clock=clock)
    capped = time_interleaved({"x": clock.taking("x", 1e-9)}, warm_up_s=0, min_seconds=9, clock=clock)
    assert [item["x"].count for item in (slow, fast, capped)] == [7, 100, 10_000]


def test_percentiles_and_mean_are_in_milliseconds() -> None:
    clock = Clock()
    seconds = [number / 1000 for number in range(1, 102)]
    calls = {"x": clock.taking("x", 0.5, *seconds)}
    timing = time_interleaved(calls, warm_up_s=0, min_seconds=0, min_rounds=101, clock=clock)["x"]
    assert (timing.p50, timing.p90, timing.p99) == pytest.approx((51, 91, 100))
    assert timing.mean == pytest.approx(51)


def test_each_visit_begins_with_a_call_that_does_not_count_and_each_part_fills_its_burst() -> None:
    clock = Clock()
    cases = {"case": {"inference": clock.taking("i", 0.25), "whole": clock.taking("w", 0.5)}}
    times = time_bursts(cases, rounds=2, burst_s=1.0, warm_up_s=0.5, clock=clock)
    assert "".join(clock.called) == "ii" + "w" + 2 * ("i" + "iiii" + "ww")
    assert [len(taken) for taken in times["case"]["inference"]] == [4, 4]
    assert set(np.concatenate(times["case"]["whole"])) == {500.0}


def test_a_call_longer_than_the_burst_counts_once() -> None:
    clock = Clock()
    times = time_bursts({"x": {"x": clock.taking("x", 9.0)}}, rounds=3, burst_s=0.1, warm_up_s=0, clock=clock)
    assert [taken.tolist() for taken in times["x"]["x"]] == [[9000.0]] * 3


def test_every_round_visits_all_cases_in_an_order_that_the_seed_fixes() -> None:
    orders = []
    for seed in (0, 0, 1):
        clock = Clock()
        cases = {name: {"x": clock.taking(name, 1.0)} for name in "abcd"}
        time_bursts(cases, rounds=6, burst_s=0.5, warm_up_s=0, seed=seed, clock=clock)
        visits = "".join(clock.called[4::2])  # the warm-up apart; each visit is a call that counts, and one before it
        orders.append([visits[start : start + 4] for start in range(0, 24, 4)])
    assert orders[0] == orders[1] != orders[2]
    assert all("".join(sorted(order)) == "abcd" for order in orders[0])
    assert len(set(orders[0])) > 1


def test_what_is_called_after_a_visit_is_outside_of_the_times() -> None:
    clock = Clock()
    case = {"x": {"x": clock.taking("x", 1.0)}}
    times = time_bursts(case, rounds=2, burst_s=0.5, warm_up_s=0, after=clock.taking("after", 100.0), clock=clock)
    assert clock.called.count("after") == 2
    assert np.concatenate(times["x"]["x"]).max() == 1000
