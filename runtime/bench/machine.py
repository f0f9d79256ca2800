"""Record the machine that numbers were measured on; nothing in the record names this one machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..roofline.caches import usable_cpus
from .nvidia import GpuFacts, power_mode, query_gpu
from .report import Clocks, Machine

__all__ = ["busy_before", "read_clocks", "record_machine", "slowed_down"]

GIB = 2**30
ROOT = Path("/")
PACKAGES = (
    "hybrid-edge",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-python",
)
FREE = 0.5  # load below which a machine is free: a desktop uses half a core by itself
SLOWER = 0.9


def record_machine(before: Clocks, root: Path = ROOT) -> Machine:
    """Return the record of this machine.

    Args:
        before: the clocks when measuring began, from ``read_clocks``.
        root: the folder that /proc and /sys are in.
    """
    gpu = query_gpu()
    return Machine(
        cpu=_cpu(root),
        cores=len(usable_cpus()),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        model=_board(root),
        gpu=gpu.get("name"),
        power_mode=power_mode() or (f"{gpu['power.limit']} W limit" if "power.limit" in gpu else None),
        versions=_versions(gpu, root),
        before=before,
    )


def read_clocks(root: Path = ROOT) -> Clocks:
    """Return load, clocks and temperature of now, the CPU's read first, as it rests while nvidia-smi answers."""
    load, cpu_mhz = round(os.getloadavg()[0], 2), _cpu_mhz(root)
    gpu = query_gpu()
    return Clocks(
        load=load,
        cpu_mhz=cpu_mhz,
        gpu_mhz=_number(gpu, "clocks.sm"),
        gpu_memory_mhz=_number(gpu, "clocks.mem"),
        gpu_celsius=_number(gpu, "temperature.gpu"),
    )


def busy_before(machine: Machine) -> str | None:
    """Return a note if the machine was busy before anything was measured, else None."""
    if machine.before.load < FREE:
        return None
    return f"the machine was busy when it began: load {machine.before.load:.1f} on {machine.cores} cores"


def slowed_down(before: Clocks, after: Clocks) -> str | None:
    """Return a note if clocks fell during the measurement, by heat or a power limit, else None."""
    pairs = {"CPU": (before.cpu_mhz, after.cpu_mhz), "GPU": (before.gpu_mhz, after.gpu_mhz)}
    known = {name: (first, last) for name, (first, last) in pairs.items() if first and last}
    fallen = [f"{name} {first:.0f} to {last:.0f} MHz" for name, (first, last) in known.items() if last < SLOWER * first]
    return f"clocks fell while it was measured: {', '.join(fallen)}" if fallen else None


def _cpu(root: Path) -> str:
    """Return the CPU's name, or its architecture on ARM, whose kernels give none: there ``model`` names the board."""
    for line in _lines(root / "proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Hardware"):
            return value.strip()
    return platform.machine()


def _board(root: Path) -> str | None:
    text = _text(root / "proc/device-tree/model")
    return text.rstrip("\0") if text else None


def _cpu_mhz(root: Path) -> float | None:
    """Return the cores' mean MHz, from the scaling driver, else from what x86 kernels list; None if neither tells."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [int(text) / 1000 for text in map(_text, files) if text]
    listed = [line.partition(":")[2] for line in _lines(root / "proc/cpuinfo") if line.startswith("cpu MHz")]
    found = clocks or [float(text) for text in listed]
    return round(sum(found) / len(found), 1) if found else None


def _versions(gpu: GpuFacts, root: Path) -> dict[str, str]:
    """Return the versions of Python, of installed ``PACKAGES``, of NVIDIA's driver and of the Jetson's Linux."""
    release = (_text(root / "etc/nv_tegra_release") or "").partition(", GCID")[0].lstrip("# ")
    every = {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "NVIDIA driver": gpu.get("driver_version"),
        "Jetson Linux": release,
    }
    return {name: text for name, text in every.items() if text}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _number(facts: GpuFacts, name: str) -> float | None:
    return float(facts[name]) if name in facts else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _lines(path: Path) -> list[str]:
    return (_text(path) or "").splitlines()
