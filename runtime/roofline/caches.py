"""Ask Linux how much the CPU's caches hold."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

__all__ = ["data_caches", "usable_cpus"]

CPUS = Path("/sys/devices/system/cpu")
UNITS = {"K": 2**10, "M": 2**20}


def usable_cpus() -> frozenset[int]:
    """Return the numbers of the CPUs that this process may run on; where the system does not say, of all."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def data_caches(cpus: Collection[int] | None = None, root: Path = CPUS) -> tuple[int, ...]:
    """Return the bytes of the caches that hold data, level by level, each over all instances that some CPUs use.

    Args:
        cpus: numbers of CPUs; None means those that this process may run on.
        root: the system's folder of CPUs.

    Returns:
        Bytes, the first level first; empty where the system does not say, as in some virtual machines.
    """
    levels: dict[int, dict[str, int]] = {}
    for number in usable_cpus() if cpus is None else cpus:
        for folder in (root / f"cpu{number}" / "cache").glob("index*"):
            try:
                if (folder / "type").read_text().strip() == "Instruction":
                    continue
                shared = (folder / "shared_cpu_list").read_text().strip()
                size = _bytes((folder / "size").read_text().strip())
                levels.setdefault(int((folder / "level").read_text()), {})[shared] = size
            except (OSError, ValueError):  # some kernels leave one of these files out
                continue
    return tuple(total for level in sorted(levels) if (total := sum(levels[level].values())))


def _bytes(text: str) -> int:
    """Return the bytes of a size such as ``32768K``."""
    return int(text[:-1]) * UNITS[text[-1]] if text[-1:] in UNITS else int(text)
