"""Measure how fast this machine's CPU multiplies and reads when it does nothing else.

Products run through ONNX Runtime, whose kernels the variants use. Memory and cache are read, not copied: what bounds
inference is weights that are read, and a copy also writes. A limit is what the machine can do at its best moment, so
the best of all repetitions counts, and noise only ever makes it too low.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..backends.onnxruntime import TensorSession
from ..process import usable_cpus
from ..roofline import MIB, Arithmetic, Rates

CPUS = Path("/sys/devices/system/cpu")
UNITS = {"K": 2**10, "M": MIB}
# An ONNX model each, as the runtime has no onnx package to write them: value (M, K) times a constant (K, N) of ones,
# MatMul in float32, and MatMulInteger of uint8 and int8. The 16 bytes of PLACE_OF_SHAPE are for K and N.
GRAPHS: Mapping[Arithmetic, tuple[bytes, type[Any]]] = {
    "fp32": (
        b'\x08\x08:\xb8\x01\n:\n\x05shape\x12\x06weight"\x0fConstantOfShape*\x18\n\x05value*\x0c\x08\x01\x10\x01"\x04'
        b'\x00\x00\x80?B\x00\xa0\x01\x04\n \n\x05value\n\x06weight\x12\x07product"\x06MatMul\x12\x01g*\x1d\x08\x02'
        b"\x10\x07B\x05shapeJ\x10SHAPE OF WEIGHT.Z\x19\n\x05value\x12\x10\n\x0e\x08\x01\x12\n\n\x03\x12\x01M\n\x03\x12"
        b"\x01Kb\x1b\n\x07product\x12\x10\n\x0e\x08\x01\x12\n\n\x03\x12\x01M\n\x03\x12\x01NB\x04\n\x00\x10\x11",
        np.float32,
    ),
    "int8": (
        b'\x08\x08:\xbc\x01\n7\n\x05shape\x12\x06weight"\x0fConstantOfShape*\x15\n\x05value*\t\x08\x01\x10\x03*\x01\x01'
        b"B\x00\xa0\x01\x04\n'\n\x05value\n\x06weight\x12\x07product\"\rMatMulInteger\x12\x01g*\x1d\x08\x02\x10\x07B"
        b"\x05shapeJ\x10SHAPE OF WEIGHT.Z\x19\n\x05value\x12\x10\n\x0e\x08\x02\x12\n\n\x03\x12\x01M\n\x03\x12\x01Kb\x1b"
        b"\n\x07product\x12\x10\n\x0e\x08\x06\x12\n\n\x03\x12\x01M\n\x03\x12\x01NB\x04\n\x00\x10\x11",
        np.uint8,
    ),
}
PLACE_OF_SHAPE = b"SHAPE OF WEIGHT."
# rows, inner, columns: CPUs differ in the shape they are fastest at; a slow one takes 20 ms for the largest
SHAPES = ((512, 512, 512), (1024, 512, 1024), (1024, 1024, 1024))
PASSES = 4  # over all measurements, so that none falls whole into a moment at which something else runs
MIN_CALLS = 2  # of each measurement in a pass, however short the time
OUTSIDE = 4  # a buffer of so many times the cache, read in a circle, finds nothing of itself in the cache
MIN_BUFFER, MAX_BUFFER = 128 * MIB, 512 * MIB
READ_BYTES = 128 * MIB  # that one timing reads at least: some ms, beside which the start of threads takes no time


class _Task(NamedTuple):
    """One thing to time: the rate that it shows, the 10^9 units (products, bytes) of one call, and the call."""

    rate: str
    work: float
    call: Callable[[], object]


def probe(seconds: float, threads: int | None = None) -> Rates:
    """Measure this machine's CPU: FP32 and INT8 products, and reading from memory and, if its size is known, a cache.

    All measurements together take about so many seconds; each is repeated eight times at least. None as ``threads``
    takes one for each CPU that this process may use.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        BackendError: ONNX Runtime refused a matrix product.
    """
    cpus = usable_cpus()
    used = threads or len(cpus)
    *nearer, cache = data_caches(cpus[:used]) or (0,)
    beyond = max(MIN_BUFFER, min(MAX_BUFFER, OUTSIDE * cache))
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(used))
        tasks = [_product(stack, shape, kind, used) for kind in GRAPHS for shape in SHAPES]
        tasks += _reading("memory", beyond, pool, used)
        tasks += _reading("cache", cache // 2, pool, used) if cache else []
        best = _best(tasks, seconds)
    return Rates(
        name="this machine",
        gmacs={kind: best[kind] for kind in GRAPHS},
        bandwidth_gbs=best["memory"],
        cache_bytes=cache or None,
        cache_bandwidth_gbs=max(best["cache"], best["memory"]) if cache else None,
        source=f"measured on {used} threads: matrix products of ONNX Runtime, reading {beyond / MIB:.0f} "
        f"MiB{f' and {cache / 2 / MIB:.1f} MiB' if cache else ''}; the best of all repetitions",
        measured=True,
        near_bytes=max(nearer, default=0),
    )


def better_rates(first: Rates, second: Rates) -> Rates:
    """Join two probes of one machine by the better of each rate: noise only ever makes one too low."""
    return replace(
        first,
        gmacs={kind: max(rate, second.gmacs[kind]) for kind, rate in first.gmacs.items()},
        bandwidth_gbs=max(first.bandwidth_gbs, second.bandwidth_gbs),
        cache_bandwidth_gbs=max(first.cache_bandwidth_gbs or 0, second.cache_bandwidth_gbs or 0) or None,
    )


def data_caches(cpus: Collection[int], root: Path = CPUS) -> list[int]:
    """Return the bytes of the caches that hold data, nearest level first, each over all instances that some CPUs use.

    The list is empty where Linux does not say, as in some virtual machines. ``root`` is its folder of CPUs.
    """
    levels: dict[int, dict[str, int]] = {}
    for number in cpus:
        for folder in (root / f"cpu{number}" / "cache").glob("index*"):
            with suppress(OSError, ValueError):  # some kernels leave one of these files out
                kind, level, size, shared = (
                    (folder / name).read_text().strip() for name in ("type", "level", "size", "shared_cpu_list")
                )
                if kind != "Instruction":
                    levels.setdefault(int(level), {})[shared] = int(size.rstrip("KM")) * UNITS.get(size[-1:], 1)
    return [total for level in sorted(levels) if (total := sum(levels[level].values()))]


def product_graph(kind: Arithmetic, inner: int, columns: int) -> bytes:
    """Return a model with the input ``value``, (rows, inner) float32 or uint8, and its ``product`` with ones."""
    return GRAPHS[kind][0].replace(PLACE_OF_SHAPE, struct.pack("<qq", inner, columns))


def _product(stack: ExitStack, shape: tuple[int, int, int], kind: Arithmetic, threads: int) -> _Task:
    rows, inner, columns = shape
    session = stack.enter_context(TensorSession(product_graph(kind, inner, columns), threads=threads))
    tensors = {"value": np.ones((rows, inner), GRAPHS[kind][1])}
    return _Task(kind, rows * inner * columns / 1e9, lambda: session.run(tensors))


def _reading(rate: str, size: int, pool: ThreadPoolExecutor, threads: int) -> list[_Task]:
    """Return tasks that read ``size`` bytes over and over, each thread its own part.

    Finding the largest integer is the least work for each value; CPUs differ in the width that they vectorize best.
    """
    parts = [np.ones(max(1, size // threads // 8), np.int64) for _ in range(threads)]  # written, so that they are there
    rounds = -(-READ_BYTES // size)

    def read(part: npt.NDArray[Any]) -> None:
        for _ in range(rounds):
            np.maximum.reduce(part)

    def read_all(kind: type[Any]) -> None:
        list(pool.map(read, [part.view(kind) for part in parts]))

    work = rounds * sum(part.nbytes for part in parts) / 1e9
    return [_Task(rate, work, partial(read_all, kind)) for kind in (np.int32, np.int64)]


def _best(tasks: Sequence[_Task], seconds: float) -> dict[str, float]:
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
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
