from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.timing import compare, summarize_times, time_interleaved


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
    capped = time_interleaved({"x": clock.taking("x", 1e-9)}, warm_up_s=0, min_seconds=9, max_rounds=50, clock=clock)
    assert [item["x"].count for item in (slow, fast, capped)] == [7, 100, 50]


def test_percentiles_and_mean_are_in_milliseconds_and_every_time_is_kept() -> None:
    clock = Clock()
    seconds = [number / 1000 for number in range(1, 102)]
    timing = time_interleaved(
        {"x": clock.taking("x", 0.5, *seconds)}, warm_up_s=0, min_seconds=0, min_rounds=101, clock=clock
    )["x"]
    assert (timing.p50, timing.p90, timing.p99) == pytest.approx((51, 91, 100))
    assert timing.mean == pytest.approx(51)
    np.testing.assert_allclose(timing.times, np.arange(1, 102))


def test_a_ratio_comes_with_its_spread() -> None:
    first = summarize_times(np.array([10.0, 10, 20, 10, 10]))
    second = summarize_times(np.array([20.0, 20, 40, 30, 20]))
    found = compare(first, second)
    assert found.ratio == 2
    assert (found.low, found.high) == pytest.approx((2, 2.8))  # a machine that slows for a round slows both


def test_timings_of_different_runs_are_not_compared() -> None:
    with pytest.raises(UsageError, match="found 1 and 2 rounds"):
        compare(summarize_times(np.ones(1)), summarize_times(np.ones(2)))


@pytest.mark.parametrize("settings", [{"min_rounds": 0}, {"min_rounds": 5, "max_rounds": 4}])
def test_no_rounds_are_wrong_usage(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="1 <= min_rounds <= max_rounds"):
        time_interleaved({"x": lambda: None}, **settings)  # type: ignore[arg-type]


def test_nothing_to_time_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="found 0 callables"):
        time_interleaved({})


def test_real_work_is_told_apart() -> None:
    small, large = np.ones((16, 16)), np.ones((300, 300))
    timings = time_interleaved(
        {"small": lambda: small @ small, "large": lambda: large @ large}, warm_up_s=0.01, min_seconds=0.05
    )
    assert compare(timings["small"], timings["large"]).ratio > 2
