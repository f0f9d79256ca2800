"""Checks for room to build an engine, in the system's memory and the GPU's, and to keep it on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import EngineError
from .gpu import Gpu

__all__ = ["MIB", "available_memory", "check_memory", "disk_shortage"]

MIB = 2**20
MEMINFO = Path("/proc/meminfo")
# Engines were up to 1.2 times as large as their graphs (docs/measurements.md, with TensorRT-RTX); beside an engine come
# its record and the times of kernels.
DISK_SHARE = 2
DISK_REST = 64 * MIB
# These lie in memory at the same time: the parser's copy of the graph's weights, the builder's, the engine as TensorRT
# gives it, and the engine as bytes.
SYSTEM_COPIES = 4
# The engine and the memory on which kernels are tried; the builder skips those that need more workspace than there is.
GPU_COPIES = 2


def available_memory(otherwise: int, *, swap: bool = False) -> int:
    """Return how many bytes the system can give (``MemAvailable``, which counts the page cache as free).

    Args:
        otherwise: the answer where the system does not say.
        swap: whether what the system can move to swap counts too; memory that a GPU uses can't be moved.
    """
    try:
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        facts = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
        return facts["MemAvailable:"] + (facts.get("SwapFree:", 0) if swap else 0)
    except (OSError, KeyError, ValueError):
        return otherwise


def disk_shortage(graph: int, folder: Path) -> str | None:
    """Say in one line why an engine can't be kept in a folder; None where it can, as far as is known beforehand.

    Args:
        graph: the size of the ONNX file, bytes.
        folder: where the engine is to be kept.
    """
    remedy = "HYBRID_EDGE_CACHE names another cache folder"
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}: engines can't be kept here ({error.strerror or error}); {remedy}"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return f"{folder}: engines can't be kept here (no right to write); {remedy}"
    return _shortage(
        "on disk", DISK_SHARE * graph + DISK_REST, free, f"in {folder} to keep it: make room there, or {remedy}"
    )


def check_memory(graph: int, gpu: Gpu) -> None:
    """Refuse to begin what would end after minutes with the system out of memory.

    Args:
        graph: the size of the ONNX file, bytes.
        gpu: the GPU for which the engine is built.

    Raises:
        EngineError: there is too little memory; the message has what is needed and what was found.
    """
    needed = SYSTEM_COPIES * graph
    remedy = "swap included: end other programs, add swap, or take a narrower --precision"
    shortages = [_shortage("of memory", needed, available_memory(needed, swap=True), remedy)]
    if not gpu.integrated:
        remedy = f"on {gpu.name}: end other programs on it (nvidia-smi lists them), or take a narrower --precision"
        shortages.append(_shortage("of the GPU's memory", GPU_COPIES * graph, gpu.free_memory, remedy))
    for shortage in shortages:
        if shortage is not None:
            raise EngineError(shortage)


def _shortage(where: str, needed: int, found: int, remedy: str) -> str | None:
    if found >= needed:
        return None
    return (
        f"building an engine: expected at least {-(-needed // MIB)} MiB {where} to be free, found {found // MIB} MiB "
        f"{remedy}"
    )
