"""A Gpu is what building engines must know of this machine's GPU; here is also how much memory and disk a build needs.

``backends/cuda`` asks the driver for the Gpu: this room needs neither a GPU nor CUDA.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import EngineError

MIB = 2**20
MEMINFO = Path("/proc/meminfo")
# Engines were up to 1.2 times as large as their graphs (docs/measurements.md, with TensorRT-RTX); beside an engine come
# its record and the times of kernels.
DISK_COPIES = 2
DISK_REST = 64 * MIB
# These lie in memory at the same time: the parser's copy of the graph's weights, the builder's, the engine as TensorRT
# gives it, and the engine as bytes.
SYSTEM_COPIES = 4
# The engine and the memory on which kernels are tried; the builder skips those that need more workspace than there is.
GPU_COPIES = 2


@dataclass(frozen=True)
class Gpu:
    """What building and caching must know of one NVIDIA GPU; memory is in bytes, as found when the GPU was asked.

    Attributes:
        name: the driver's name, such as ``NVIDIA GeForce RTX 4070``, with the board's if it shares the CPU's memory.
        compute_capability: major and minor number, such as (8, 9).
        integrated: whether it shares the CPU's memory, as a Jetson's does, and reads it in place.
        multiprocessors: their number; the driver gives all Jetson Orins one name and one compute capability.
    """

    name: str
    compute_capability: tuple[int, int]
    integrated: bool
    total_memory: int
    free_memory: int
    multiprocessors: int = 0

    @property
    def architecture(self) -> str:
        """The architecture's name, such as ``sm89``."""
        major, minor = self.compute_capability
        return f"sm{major}{minor}"

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson or like one, on which TensorRT-RTX, made for desktop cards, must not be used."""
        return self.integrated or self.architecture == "sm87" or platform.machine() == "aarch64"


def available_memory(otherwise: int, *, swap: bool = False) -> int:
    """Return how many bytes the system can give (``MemAvailable``, which counts the page cache as free).

    The answer is ``otherwise`` where the system does not say. ``swap`` also counts what the system can move to swap;
    memory that a GPU uses can't be moved.
    """
    try:
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        facts = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
        return facts["MemAvailable:"] + (facts.get("SwapFree:", 0) if swap else 0)
    except (OSError, KeyError, ValueError):
        return otherwise


def disk_shortage(graph_size: int, folder: Path) -> str | None:
    """Say why an engine of ``graph_size`` bytes of ONNX can't be kept in a folder, as far as is known, else None."""
    remedy = "HYBRID_EDGE_CACHE names another cache folder"
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}: engines can't be kept here ({error.strerror or error}); {remedy}"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return f"{folder}: engines can't be kept here (no right to write); {remedy}"
    needed = DISK_COPIES * graph_size + DISK_REST
    return _shortage("on disk", needed, free, f"in {folder} to keep it: make room there, or {remedy}")


def check_memory(graph_size: int, gpu: Gpu) -> None:
    """Raise EngineError if a build of ``graph_size`` bytes of ONNX would, after minutes, run out of memory."""
    needed = SYSTEM_COPIES * graph_size
    remedy = "swap included: end other programs, add swap, or take a narrower --precision"
    shortage = _shortage("of memory", needed, available_memory(needed, swap=True), remedy)
    if shortage is None and not gpu.integrated:
        remedy = f"on {gpu.name}: end other programs on it (nvidia-smi lists them), or take a narrower --precision"
        shortage = _shortage("of the GPU's memory", GPU_COPIES * graph_size, gpu.free_memory, remedy)
    if shortage is not None:
        raise EngineError(shortage)


def _shortage(where: str, needed: int, found: int, remedy: str) -> str | None:
    if found >= needed:
        return None
    return (
        f"building an engine: expected at least {-(-needed // MIB)} MiB {where} to be free, found {found // MIB} MiB "
        f"{remedy}"
    )
