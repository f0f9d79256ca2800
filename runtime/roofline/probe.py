"""Measure how fast this machine's CPU multiplies and reads when it does nothing else.

Products run through ONNX Runtime, whose kernels the variants use. Memory and cache are read, not copied: what bounds
inference is weights that are read, and a copy also writes. A limit is what the machine can do at its best moment, so
the best of all repetitions counts, and noise only ever makes it too low.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..backends.onnxruntime import TensorSession
from ..errors import UsageError
from .caches import data_caches, usable_cpus
from .product_graph import product_graph
from .rates import Rates

__all__ = ["best_of", "probe", "rates_apart"]

Rate = Literal["fp32", "int8", "memory", "cache"]

# the types of a product's input and of its weight
KINDS: dict[Literal["fp32", "int8"], tuple[type[Any], type[Any]]] = {
    "fp32": (np.float32, np.float32),
    "int8": (np.uint8, np.int8),
}
# rows, inner, columns: CPUs differ in the shape they are fastest at; a slow one takes 20 ms for the largest
SHAPES = ((512, 512, 512), (1024, 512, 1024), (1024, 1024, 1024))
# finding the largest integer is the least work for each value; processors differ in the width they vectorize best
READ: tuple[type[np.int32] | type[np.int64], ...] = (np.int32, np.int64)
PASSES = 4  # over all measurements, so that none falls whole into a moment at which something else runs
SMALLEST = 2  # the least number of repetitions of each measurement in a pass, however short the time
MIB = 2**20
OUTSIDE = 4  # a buffer of so many times the cache, read in a circle, finds nothing of itself in the cache
MIN_BUFFER, MAX_BUFFER = 128 * MIB, 512 * MIB
APART = 0.10  # share by which two probes of one machine may differ; more is reported
BURST = 128 * MIB  # bytes that one timing reads at least: some ms, beside which the start of threads takes no time


class _Task(NamedTuple):
    """This is a task to time: the rate it shows, the 10^9 units (products, bytes) of one call, and the call."""

    rate: Rate
    work: float
    call: Callable[[], object]


def probe(seconds: float = 4.0, *, threads: int | None = None) -> Rates:
    """Measure this machine's CPU.

    Args:
        seconds: about how long all measurements take together; each is repeated eight times at least.
        threads: how many threads work at once; None takes one for each CPU that this process may use.

    Returns:
        The rates of FP32 and INT8 products, and the bandwidth of reading from memory, and from the last cache where its
        size is known.

    Raises:
        UsageError: ``seconds`` or ``threads`` is not above 0.
        BackendUnavailableError: ONNX Runtime is not installed.
        BackendError: ONNX Runtime refused a matrix product.
    """
    cpus = sorted(usable_cpus())
    used = threads if threads is not None else len(cpus)
    if not seconds > 0 or used < 1:
        raise UsageError(f"expected seconds > 0 and threads >= 1, found {seconds} and {threads}")
    *nearer, cache = data_caches(cpus[:used]) or (0,)
    beyond = max(MIN_BUFFER, min(MAX_BUFFER, OUTSIDE * cache))
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(used))
        tasks = [_product(stack, shape, kind, used) for kind in KINDS for shape in SHAPES]
        tasks += _reading("memory", beyond, pool, used)
        tasks += _reading("cache", cache // 2, pool, used) if cache else []
        best = _best(tasks, seconds)
    return Rates(
        name="this machine",
        gmacs={kind: best[kind] for kind in KINDS},
        bandwidth_gbs=best["memory"],
        cache_bytes=cache or None,
        cache_bandwidth_gbs=max(best["cache"], best["memory"]) if cache else None,
        source=f"measured on {used} threads: matrix products of ONNX Runtime, reading {beyond / MIB:.0f} "
        f"MiB{f' and {cache / 2 / MIB:.1f} MiB' if cache else ''}; the best of all repetitions",
        measured=True,
        near_bytes=max(nearer, default=0),
    )


def best_of(first: Rates, second: Rates) -> Rates:
    """Join two probes of one machine by the better of each rate."""
    cached = (first.cache_bandwidth_gbs, second.cache_bandwidth_gbs)
    return replace(
        first,
        gmacs={kind: max(rate, second.gmacs.get(kind, 0.0)) for kind, rate in first.gmacs.items()},
        bandwidth_gbs=max(first.bandwidth_gbs, second.bandwidth_gbs),
        cache_bandwidth_gbs=max((rate for rate in cached if rate is not None), default=None),
    )


def rates_apart(first: Rates, second: Rates) -> list[str]:
    """Return the rates that two probes of one machine put over ``APART`` apart: ``memory 46.0 and 82.0 GB/s``."""
    ours, theirs = _listed(first), _listed(second)
    pairs = {name: (rate, theirs[name]) for name, rate in ours.items() if name in theirs}
    return [
        f"{name} {one:.1f} and {other:.1f} {'GB/s' if name in ('memory', 'cache') else 'GMAC/s'}"
        for name, (one, other) in pairs.items()
        if max(one, other) > (1 + APART) * min(one, other)
    ]


def _listed(rates: Rates) -> dict[str, float]:
    every = {**{kind.upper(): rate for kind, rate in rates.gmacs.items()}, "memory": rates.bandwidth_gbs}
    return every if rates.cache_bandwidth_gbs is None else {**every, "cache": rates.cache_bandwidth_gbs}


def _product(stack: ExitStack, shape: tuple[int, int, int], kind: Literal["fp32", "int8"], threads: int) -> _Task:
    rows, inner, columns = shape
    given, stored = KINDS[kind]
    graph = product_graph(rows, np.ones((inner, columns), stored))
    session = stack.enter_context(TensorSession(graph, threads=threads))
    tensors = {"value": np.ones((rows, inner), given)}
    return _Task(kind, rows * inner * columns / 1e9, lambda: session.run(tensors))


def _reading(rate: Rate, size: int, pool: ThreadPoolExecutor, threads: int) -> list[_Task]:
    """Return tasks that read ``size`` bytes over and over, each thread its own part."""
    parts = [np.ones(max(1, size // threads // 8), np.int64) for _ in range(threads)]  # written, so that they are there
    rounds = -(-BURST // size)
    work = rounds * sum(part.nbytes for part in parts) / 1e9
    return [_Task(rate, work, partial(_read, pool, [part.view(kind) for part in parts], rounds)) for kind in READ]


def _read(pool: ThreadPoolExecutor, parts: Sequence[npt.NDArray[Any]], rounds: int) -> None:
    def read(part: npt.NDArray[Any]) -> None:
        for _ in range(rounds):
            np.maximum.reduce(part)

    list(pool.map(read, parts))


def _best(tasks: Sequence[_Task], seconds: float) -> dict[Rate, float]:
    """Return each rate, in 10^9 units a second, as the task that shows it best does at its fastest."""
    share = seconds / (PASSES * len(tasks))
    best = dict.fromkeys((task.rate for task in tasks), 0.0)
    for _ in range(PASSES):
        for task in tasks:
            best[task.rate] = max(best[task.rate], task.work / _fastest(task.call, share))
    return best


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Return the seconds of the fastest of the calls that fit into a time; a first one, to warm up, does not count."""
    call()
    return min(_times(call, time.perf_counter() + seconds))


def _times(call: Callable[[], object], end: float) -> Iterator[float]:
    count = 0
    while count < SMALLEST or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        yield time.perf_counter() - start
        count += 1
