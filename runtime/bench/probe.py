"""Measure how fast this machine's CPU multiplies and reads when it does nothing else.

Products run through ONNX Runtime, whose kernels the variants use. Memory and cache are read, not copied: what bounds
inference is weights that are read, and a copy also writes. A limit is what the machine can do at its best moment, so
the best of all repetitions counts, and noise only ever makes it too low.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.onnxruntime import TensorSession
from ..process import usable_cpus
from ..roofline import MIB, Arithmetic, Rates
from ..timing import time_bursts

CPUS = Path("/sys/devices/system/cpu")
# A file has the model of each, as the runtime has no onnx package to write it: value (M, K) times a constant (K, N) of
# ones, MatMul in float32, and MatMulInteger of uint8 and int8. The 16 bytes of PLACE_OF_SHAPE are K and N.
VALUE_TYPES: Mapping[Arithmetic, type[Any]] = {"fp32": np.float32, "int8": np.uint8}
PLACE_OF_SHAPE = b"SHAPE OF WEIGHT."
# rows, inner, columns: CPUs differ in the shape they are fastest at; a slow one takes 20 ms for the largest
SHAPES = ((512, 512, 512), (1024, 512, 1024), (1024, 1024, 1024))
PASSES = 8  # over all measurements, so that none falls whole into a moment at which something else runs
OUTSIDE = 4  # a buffer of so many times the cache, read in a circle, finds nothing of itself in the cache
MIN_BUFFER, MAX_BUFFER = 128 * MIB, 512 * MIB
READ_BYTES = 128 * MIB  # that one timing reads at least: some ms, beside which the start of threads takes no time

# one thing to time: the rate that it shows, the 10^9 units (products, bytes) of one call, and the call
Task = tuple[str, float, Callable[[], object]]


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
        tasks = [_product(stack, shape, kind, used) for kind in VALUE_TYPES for shape in SHAPES]
        tasks += [_reading("memory", beyond, pool, used)]
        tasks += [_reading("cache", cache // 2, pool, used)] if cache else []
        best = _best(tasks, seconds)
    return Rates(
        name="this machine",
        gmacs={kind: best[kind] for kind in VALUE_TYPES},
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
    for folder in (found for number in cpus for found in root.glob(f"cpu{number}/cache/index*")):
        with suppress(OSError, ValueError):  # some kernels leave one of these files out
            kind, level, size, shared = (
                (folder / name).read_text().strip() for name in ("type", "level", "size", "shared_cpu_list")
            )
            if kind != "Instruction":
                levels.setdefault(int(level), {})[shared] = 2**10 * int(size.removesuffix("K"))
    return [total for level in sorted(levels) if (total := sum(levels[level].values()))]


def product_graph(kind: Arithmetic, inner: int, columns: int) -> bytes:
    """Return a model with the input ``value``, (rows, inner) float32 or uint8, and its ``product`` with ones."""
    model = Path(__file__).with_name(f"product_{kind}.onnx").read_bytes()
    return model.replace(PLACE_OF_SHAPE, struct.pack("<qq", inner, columns))


def _product(stack: ExitStack, shape: tuple[int, int, int], kind: Arithmetic, threads: int) -> Task:
    rows, inner, columns = shape
    session = stack.enter_context(TensorSession(product_graph(kind, inner, columns), threads=threads))
    tensors = {"value": np.ones((rows, inner), VALUE_TYPES[kind])}
    return kind, rows * inner * columns / 1e9, lambda: session.run(tensors)


def _reading(rate: str, size: int, pool: ThreadPoolExecutor, threads: int) -> Task:
    """Return the task of reading ``size`` bytes over and over, each thread its own part.

    Finding the largest integer is the least work for each value, and all CPUs vectorize it for 32 bits.
    """
    parts = [np.ones(max(1, size // threads // 4), np.int32) for _ in range(threads)]  # written, so that they are there
    rounds = -(-READ_BYTES // size)

    def read(part: npt.NDArray[np.int32]) -> None:
        for _ in range(rounds):
            np.maximum.reduce(part)

    return rate, rounds * sum(part.nbytes for part in parts) / 1e9, lambda: list(pool.map(read, parts))


def _best(tasks: Sequence[Task], seconds: float) -> dict[str, float]:
    """Return each rate, in 10^9 units a second, as the task that shows it best does at its fastest."""
    calls = {str(number): {"": call} for number, (_, _, call) in enumerate(tasks)}
    times = time_bursts(calls, rounds=PASSES, burst_s=seconds / (PASSES * len(tasks)), warm_up_s=0)
    best: dict[str, float] = {}
    for (rate, work, _), parts in zip(tasks, times.values(), strict=True):
        fastest = min(float(burst.min()) for burst in parts[""])
        best[rate] = max(best.get(rate, 0.0), 1000 * work / fastest)
    return best
