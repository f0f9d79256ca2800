"""Time several things side by side, so that a noisy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Milliseconds = npt.NDArray[np.float64]
MAX_INTERLEAVED = 10_000  # of single calls, however short they are


@dataclass(frozen=True)
class Timing:
    """The times of ``count`` calls, milliseconds: linearly interpolated percentiles, and the mean."""

    p50: float
    p90: float
    p99: float
    mean: float
    count: int


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    warm_up_s: float = 0.5,
    min_seconds: float = 2.0,
    min_rounds: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time several callables in turn: one call of each a round, the order reversed from one round to the next.

    A call must return only when its work is done: one that leaves work on a GPU's stream has to synchronize. Each is
    called for ``warm_up_s`` seconds, and at least once, before anything counts; clocks rise, caches fill and engines
    load their kernels in that time. All rounds take at least ``min_seconds`` together. ``clock`` is monotonic, in
    seconds. Times are milliseconds a call, by name.
    """
    for call in calls.values():
        _warm_up(call, warm_up_s, clock)
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = clock()
    for number in range(MAX_INTERLEAVED):
        if number >= min_rounds and clock() - start >= min_seconds:
            break
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            begun = clock()
            calls[name]()
            times[name].append((clock() - begun) * 1000)
    return {name: summarize_times(np.asarray(taken)) for name, taken in times.items()}


def time_bursts(
    cases: Mapping[str, Mapping[str, Callable[[], object]]],
    *,
    rounds: int,
    burst_s: float,
    warm_up_s: float = 0.5,
    seed: int = 0,
    after: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, list[Milliseconds]]]:
    """Time cases in rounds, each of which visits all of them in another order, for a burst of calls each.

    A burst shows a case at its own pace, with its data in the caches, which single calls in turn do not; and a machine
    that drifts from round to round does so for all cases alike. The first call of a visit does not count: caches,
    clocks and threads are then still as the case before left them.

    A case has parts by name, callables that return only when their work is done; each is called for ``burst_s`` seconds
    in a round, and at least once. Before the first round the first part of each case is called for ``warm_up_s``
    seconds, the others once. ``after`` is called after each visit, outside of what is timed; ``clock`` is monotonic, in
    seconds, and read once a call. Returned are, by case and part, for each round the times of its calls, (count,)
    float64, milliseconds.
    """
    for parts in cases.values():
        for number, call in enumerate(parts.values()):
            _warm_up(call, 0 if number else warm_up_s, clock)
    times: dict[str, dict[str, list[Milliseconds]]] = {name: {part: [] for part in cases[name]} for name in cases}
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        for name in generator.permutation(list(cases)).tolist():
            next(iter(cases[name].values()))()
            for part, call in cases[name].items():
                times[name][part].append(_burst(call, burst_s, clock))
            after()
    return times


def summarize_times(times: Milliseconds) -> Timing:
    """Compute percentiles and mean of (count,) times in milliseconds, count >= 1."""
    p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
    return Timing(p50, p90, p99, float(times.mean()), len(times))


def _burst(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> Milliseconds:
    taken: list[float] = []
    start = begun = clock()
    while not taken or begun - start < seconds:
        call()
        ended = clock()
        taken.append(ended - begun)
        begun = ended
    return np.asarray(taken) * 1000


def _warm_up(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> None:
    start = clock()
    while True:
        call()
        if clock() - start >= seconds:
            return
