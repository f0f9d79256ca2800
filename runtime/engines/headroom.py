"""Is there room to build an engine: on disk, in the system's memory, in the GPU's."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import EngineError
from .gpu import Gpu

__all__ = ["MIB", "available_memory", "check_headroom"]

MIB = 2**20
MEMINFO = Path("/proc/meminfo")
# Engines were up to 1.2 times as large as their graphs (docs/measurements.md, with TensorRT-RTX); beside an engine come
# its record and the times of kernels.
DISK_SHARE = 2
DISK_REST = 64 * MIB
# The graph's bytes, the parser's copy of its weights, the builder's and the engine lie there at the same time.
SYSTEM_COPIES = 4
# The engine, and what kernels are tried on; the builder leaves out those that need more workspace than there is.
GPU_COPIES = 2


def available_memory(otherwise: int, *, swap: bool = False) -> int:
    """Bytes that the system can give (``MemAvailable``: the page cache counts as free).

    Args:
        otherwise: the answer where the system does not say.
        swap: count what it can move to swap as well; what a GPU uses can't be moved.
    """
    try:
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        facts = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
        return facts["MemAvailable:"] + (facts.get("SwapFree:", 0) if swap else 0)
    except (OSError, KeyError, ValueError):
        return otherwise


def check_headroom(graph: int, folder: Path, gpu: Gpu) -> None:
    """Refuse to begin what would end after minutes, or with the system out of memory.

    Args:
        graph: size of the ONNX file, bytes.
        folder: where the engine is to be kept; it exists.
        gpu: for which it is built.

    Raises:
        EngineError: too little; the message has both figures.
    """
    needed = DISK_SHARE * graph + DISK_REST
    _require(
        "on disk",
        needed,
        shutil.disk_usage(folder).free,
        f"in {folder}: make room there, or let HYBRID_EDGE_CACHE name another cache folder",
    )
    needed = SYSTEM_COPIES * graph
    _require(
        "of memory",
        needed,
        available_memory(needed, swap=True),
        "swap included: end other programs, add swap, or take a narrower --precision",
    )
    if not gpu.integrated:
        _require(
            "of the GPU's memory",
            GPU_COPIES * graph,
            gpu.free_memory,
            f"on {gpu.name}: end other programs on it (nvidia-smi lists them), or take a narrower --precision",
        )


def _require(where: str, needed: int, found: int, remedy: str) -> None:
    if found < needed:
        raise EngineError(
            f"building an engine: expected at least {-(-needed // MIB)} MiB {where} to be free, found "
            f"{found // MIB} MiB {remedy}"
        )
