"""Ask the system what this process may use and has used: its CPUs, and its peak of memory."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
KIB_PER_MIB = 1024


def peak_mib(status: Path = STATUS) -> float:
    """Return the most resident memory that this process held at once, MiB.

    It is Linux's ``VmHWM``: ``ru_maxrss`` begins with what the parent held, before the process became this program.
    """
    try:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / KIB_PER_MIB
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / KIB_PER_MIB / (KIB_PER_MIB if sys.platform == "darwin" else 1)  # macOS counts bytes, others KiB


def usable_cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may run on; where the system does not say, of all."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
