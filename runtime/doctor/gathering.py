"""Gathers the facts of this machine; what can't be read is None, with the reason, and nothing here raises.

Each fact has a reader in ``READERS``. A reader may fail in any way: /proc may be closed to it, a package's metadata
torn, a tool broken. That is caught in one place, ``gather``.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from ..process import usable_cpus
from ..storage import cache_dir
from .bounded import run_bounded
from .facts import MAX_TEXT, Facts, bounded

TOOL_SECONDS = 10.0  # nvidia-smi takes 1 to 3 where the driver is not kept loaded
MIB = 2**20
# what packages matter to an engine, to OpenCV and to the commands
PACKAGES = re.compile(
    r"hybrid-edge|numpy|pydantic(-core)?|rich|typer|click|onnx|onnxruntime.*|opencv-.*|tensorrt.*|cuda-.*|nvidia-.*|"
    r"keras|tensorflow.*|protobuf|starlette|uvicorn|paho-mqtt|prometheus-client"
)
SYSTEM_PACKAGES = re.compile(
    r"nvidia-jetpack|nvidia-l4t-core|python3-libnvinfer|libnvinfer\d+|python3-opencv|libopencv-python|nvidia-opencv"
)
# the instructions of 8-bit products, and what they stand on, by the names that Linux gives them
CPU_FLAGS = frozenset({"avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm"})
JETSON_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
# of a Raspberry Pi's firmware: what happened since it started (raspberrypi.com, "get_throttled")
PI_THROTTLING = {16: "under-voltage", 17: "its clock was capped", 18: "it was throttled", 19: "it became too hot"}


class SystemFiles:
    """Where facts are read: ``root`` is the folder that /proc, /sys, /dev and /etc are in."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def path(self, name: str) -> Path:
        """Return the path of a file of this machine."""
        return self._root / name

    def text(self, name: str) -> str:
        """Read a file's text, without what surrounds it; raises OSError where that is not possible."""
        return self.path(name).read_text(errors="replace").strip("\0 \n\t")

    def optional(self, name: str) -> str | None:
        """Read a file's text; None where there is no such file."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self.text(name) or None
        return None

    def paths(self, pattern: str) -> list[Path]:
        """Return the paths that a glob pattern finds, sorted."""
        return sorted(self._root.glob(pattern))

    def tool(self, *command: str) -> str | None:
        """Return what a tool prints; None where it is not installed.

        Raises OSError where it fails, crashes or hangs.
        """
        program = shutil.which(command[0])
        if program is None:
            return None
        ended = run_bounded([program, *command[1:]], TOOL_SECONDS, {"LC_ALL": "C"})
        if ended.failure:
            raise OSError(f"{command[0]}: {ended.failure}")
        return ended.output.strip()


def gather(root: Path = Path("/")) -> Facts:
    """Gather the facts of this machine, without those that importing libraries shows."""
    machine, unknown = SystemFiles(root), dict[str, str]()
    kinds = {item.name: str(item.type) for item in fields(Facts)}
    read = {name: _read(machine, name, kinds[name], unknown) for name in READERS}
    return Facts(**{name: value for name, value in read.items() if name not in unknown}, unknown=unknown)


def _read(machine: SystemFiles, name: str, kind: str, unknown: dict[str, str]) -> Any:
    try:
        return bounded(name, kind, READERS[name](machine))
    except Exception as error:  # whatever is broken here is what the doctor was called for
        unknown[name] = f"{type(error).__name__}: {error}"[:MAX_TEXT]
        return None


def _distribution(machine: SystemFiles) -> str | None:
    lines = (machine.optional("etc/os-release") or "").splitlines()
    return next((line.partition("=")[2].strip("\"'") for line in lines if line.startswith("PRETTY_NAME=")), None)


def _jetson_linux(machine: SystemFiles) -> str | None:
    found = JETSON_RELEASE.search(machine.optional("etc/nv_tegra_release") or "")
    if found:
        return f"{found[1]}.{found[2]}"
    # a container has the libraries of JetPack, and not that file; the package's version is 36.4.3-2025…
    return (_system_packages(machine).get("nvidia-l4t-core") or "").partition("-")[0] or None


def _container(machine: SystemFiles) -> str | None:
    if machine.path(".dockerenv").exists():
        return "docker"
    if machine.path("run/.containerenv").exists():
        return "podman"
    return os.environ.get("container") or None  # noqa: SIM112  # systemd names it so


def _cpu(machine: SystemFiles) -> str | None:
    lines = [line.partition(":") for line in machine.text("proc/cpuinfo").splitlines()]
    return next((value.strip() for name, _, value in lines if name.strip() in ("model name", "Hardware")), None)


def _cpu_flags(machine: SystemFiles) -> list[str]:
    """Return the flags that every core has."""
    lines = [line.partition(":") for line in machine.text("proc/cpuinfo").splitlines()]
    cores = [set(value.split()) for name, _, value in lines if name.strip() in ("flags", "Features")]
    return sorted(set.intersection(*cores) & CPU_FLAGS) if cores else []


def _memory(machine: SystemFiles, name: str) -> int:
    lines = (line.split() for line in machine.text("proc/meminfo").splitlines())
    return next(int(words[1]) // 1024 for words in lines if words and words[0] == f"{name}:")


def _group_folders(machine: SystemFiles) -> Iterable[Path]:
    """Yield this process's cgroup and those above it; a container may see its own as the top of the tree."""
    for line in (machine.optional("proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        wanted = {"": "", "memory": "memory", "cpu": "cpu", "cpu,cpuacct": "cpu"}.get(controllers)
        if wanted is not None:
            top = machine.path("sys/fs/cgroup") / wanted
            own = top / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder == top or top in folder.parents)


def _memory_limit(machine: SystemFiles) -> int | None:
    limits = []
    for folder in _group_folders(machine):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # ValueError: version 2 says "max" where there is none
                limits.append(int((folder / name).read_text()) // MIB)
    smallest = min(limits, default=None)
    return None if smallest is None or smallest > _memory(machine, "MemTotal") else smallest


def _cpu_quota(machine: SystemFiles) -> float | None:
    quotas = []
    for folder in _group_folders(machine):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(OSError, ValueError):
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                quotas += [int(quota) / int(period)] if int(quota) > 0 else []
    return min(quotas, default=None)


def _power_mode(machine: SystemFiles) -> str | None:
    found = re.search(r"NV Power Mode: *(\S+)", machine.tool("nvpmodel", "-q") or "")
    return found[1] if found else None


def _cpufreq(machine: SystemFiles, name: str) -> str | None:
    return machine.optional(f"sys/devices/system/cpu/cpu0/cpufreq/{name}")


def _megahertz(machine: SystemFiles, name: str) -> int | None:
    text = _cpufreq(machine, name)
    return int(text) // 1000 if text else None


def _throttling(machine: SystemFiles) -> list[str]:
    found = []
    firmware = machine.optional("sys/devices/platform/soc/soc:firmware/get_throttled")
    if firmware:
        found += [what for bit, what in PI_THROTTLING.items() if int(firmware, 16) >> bit & 1]
    counters = machine.paths("sys/class/hwmon/hwmon*/oc*_event_cnt")  # a Jetson's
    if any(int(path.read_text()) for path in counters):
        found.append("over-current")
    return found


def _packages(_: SystemFiles) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in metadata.distributions():
        with contextlib.suppress(Exception):  # one torn folder must not hide the others
            name = re.sub(r"[-_.]+", "-", item.metadata["Name"]).lower()
            if PACKAGES.fullmatch(name):
                found.setdefault(name, item.version)  # the first on the path is the one that is imported
    return found


def _system_packages(machine: SystemFiles) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in (machine.optional("var/lib/dpkg/status") or "").splitlines():
        key, _, value = line.partition(": ")
        if key == "Package":
            name = value if SYSTEM_PACKAGES.fullmatch(value) else ""
        elif name and key == "Version":
            found[name] = value
    return found


def _driver(machine: SystemFiles) -> str | None:
    """Return the kernel module's version: ``NVRM version: NVIDIA UNIX … Kernel Module  580.65.06  Wed …``."""
    text = machine.optional("proc/driver/nvidia/version")
    found = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text or "")
    return found[1] if found else None


def _gpus(machine: SystemFiles) -> list[str]:
    found = []
    for path in machine.paths("proc/driver/nvidia/gpus/*/information"):
        lines = (line.partition(":") for line in path.read_text(errors="replace").splitlines())
        found += [value.strip() for name, _, value in lines if name == "Model"]
    return found or (machine.tool("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()


def _cameras(machine: SystemFiles, *, closed: bool) -> list[str]:
    paths = machine.paths("dev/video[0-9]*")
    return [f"/dev/{path.name}" for path in paths if not (closed and os.access(path, os.R_OK | os.W_OK))]


def _gstreamer(machine: SystemFiles) -> str | None:
    text = machine.tool("gst-launch-1.0", "--version")
    return None if text is None else text.partition("\n")[0]


def _time_synchronized(machine: SystemFiles) -> bool | None:
    text = machine.tool("timedatectl", "show", "--property=NTPSynchronized", "--value")
    return {"yes": True, "no": False}.get(text or "")


def _certificates(_: SystemFiles) -> str | None:
    """Return the file or folder of authorities; a folder without a certificate in it is none."""
    import ssl  # noqa: PLC0415  # a Python may be built without it

    places = ssl.get_default_verify_paths()
    if places.cafile:
        return places.cafile
    return places.capath if places.capath and any(Path(places.capath).iterdir()) else None


def _has_home(_: SystemFiles) -> bool:
    """Return whether the cache has a place that stays: a home, or the folder that a variable names."""
    if os.environ.get("HYBRID_EDGE_CACHE") or os.environ.get("XDG_CACHE_HOME"):
        return True
    try:
        return Path.home().is_dir()
    except RuntimeError:  # neither HOME nor /etc/passwd knows one
        return False


def _cache_place() -> Path:
    """Return the cache folder, or the nearest folder above it that exists."""
    folder = cache_dir()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


READERS: dict[str, Callable[[SystemFiles], Any]] = {
    "system": lambda _: f"{platform.system()} {platform.release()}",
    "machine": lambda _: platform.machine() or None,
    "distribution": _distribution,
    "python": lambda _: platform.python_version(),
    "board": lambda machine: machine.optional("proc/device-tree/model"),
    "jetson_linux": _jetson_linux,
    "container": _container,
    "cpu": _cpu,
    "cpu_flags": _cpu_flags,
    "cores": lambda machine: len(usable_cpus(machine.path(""))),
    "cpu_quota": _cpu_quota,
    "memory": lambda machine: _memory(machine, "MemTotal"),
    "swap": lambda machine: _memory(machine, "SwapTotal"),
    "memory_limit": _memory_limit,
    "power_mode": _power_mode,
    "governor": lambda machine: _cpufreq(machine, "scaling_governor"),
    "scaling_driver": lambda machine: _cpufreq(machine, "scaling_driver"),
    "clock": lambda machine: _megahertz(machine, "scaling_max_freq"),
    "top_clock": lambda machine: _megahertz(machine, "cpuinfo_max_freq"),
    "throttling": _throttling,
    "packages": _packages,
    "system_packages": _system_packages,
    "driver": _driver,
    "gpus": _gpus,
    "cameras": lambda machine: _cameras(machine, closed=False),
    "closed_cameras": lambda machine: _cameras(machine, closed=True),
    "gstreamer": _gstreamer,
    "display": lambda _: os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY") or None,
    "time": lambda _: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "time_synchronized": _time_synchronized,
    "certificates": _certificates,
    "has_home": _has_home,
    "cache": lambda _: str(cache_dir()),
    "cache_free": lambda _: shutil.disk_usage(_cache_place()).free // MIB,
    "cache_writable": lambda _: os.access(_cache_place(), os.W_OK | os.X_OK),
}
