"""Ask the system what this process may use and has used: CPUs, memory, its peak of that; start more of this Python."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

STATUS = Path("/proc/self/status")
KIB_PER_MIB = 1024
# of /proc/cpuinfo, what kernels are chosen by; x86's names, then ARM's
CPU_FACTS = frozenset(
    {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"}
    | {"Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Model"}
)
# Python looks for modules in the current folder first, which may be a bundle of somebody else's with a numpy.py in it
LEAVE_OUT_CURRENT_FOLDER = "import sys; sys.path[:] = filter(None, sys.path)"


def python_command(code: str) -> list[str]:
    """Return the command that runs code in another process of this Python, where the current folder has no modules."""
    return [sys.executable, "-c", f"{LEAVE_OUT_CURRENT_FOLDER}; {code}"]


def cpu_identity(root: Path = Path("/")) -> str | None:
    """Return what tells this machine's kind of CPU from others: architecture, number, and a hash of models and flags.

    None where the system does not say. ``root`` has /proc.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    facts = sorted({line for line in lines if line.partition(":")[0].strip() in CPU_FACTS})
    if not facts:
        return None
    return f"{platform.machine()} {os.cpu_count()} {hashlib.sha256(chr(10).join(facts).encode()).hexdigest()}"


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


def usable_cpus(root: Path = Path("/")) -> list[int]:
    """Return the numbers of the CPUs that this process may run on, no more than its cgroups let it use at a time.

    A container's limit (``docker run --cpus``) is a quota of time: more threads than it feeds are stopped together, for
    most of each tenth of a second. Where the system says nothing, it is all CPUs. ``root`` has /proc and /sys.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    at_once = int(min([len(allowed), *_quotas(root)]))
    return sorted(allowed)[: max(1, at_once)]


def usable_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this machine has, or the least that a cgroup of this process may use.

    None where the system says nothing. ``root`` has /proc and /sys.
    """
    found: list[int] = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemTotal:")).split()[1]) * 1024)
    for folder, old in _cgroups(root, "memory"):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max" where there is no limit
            found.append(int((folder / ("memory.limit_in_bytes" if old else "memory.max")).read_text()))
    return min(found, default=None)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limits of this process's cgroups and of those above them, in CPUs."""
    for folder, old in _cgroups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):  # ValueError: version 2 says "max" where there is none
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if old else ("cpu.max",)
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if int(quota) > 0:
                yield int(quota) / int(period)


def _cgroups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's cgroups and of those above them, and whether they are of version 1.

    A container may see its own cgroup as the top of the tree, while its path still begins at the host's top: folders
    that are not there are among them.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            own = top / path.lstrip("/")
            yield from ((folder, bool(controllers)) for folder in (own, *own.parents))
