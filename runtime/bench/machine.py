"""Record the machine that numbers were measured on, and its power; nothing in the record names this one machine.

What Linux does not tell comes from NVIDIA's own tools, none of which is needed: nvidia-smi, nvpmodel, tegrastats.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from statistics import fmean

from ..process import usable_cpus
from .bench_report import Clocks, Machine

GIB = 2**30
ROOT = Path("/")
RECORDED_PACKAGES = (
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
BUSY_LOAD = 0.5  # from which on a machine is busy: a desktop uses less than half a core by itself
FALLEN_CLOCK = 0.9  # share of the first reading below which a clock fell

TOOL_TIMEOUT = 10.0  # seconds for a tool: nvidia-smi takes 1 to 3 where the driver is not kept loaded
GPU_FACTS = ("name", "driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "power.limit")
POWER_MODE = re.compile(r"NV Power Mode: *(\S+)")

# the first of these on a board is all of its input. Nano: "POM_5V_IN measures the overall 5V input to the
# board"; Xavier NX, Orin NX, Orin Nano, TX2: VDD_IN (NVIDIA, Jetson Linux Developer Guide, "Platform Power and
# Performance"); Thor: VIN, of module and carrier board ("total VIN monitoring", NVIDIA's developer forum, topic 366461)
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
# on boards without one, the rails at the module's inputs are summed; those behind them would count twice
SUMMED_RAILS = ({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}, {"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"})
# "VDD_IN 12479mW/12300mW", before JetPack 5 "VDD_IN 4067/4067": milliwatts now and on average; JetPack 7.2 has a third
RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?(?:/\d+(?:mW)?){1,2}(?!\S)")
SAMPLE_MS = 100  # between two lines of tegrastats
POWER_SECONDS = 3.0  # for each case, which give thirty samples
SETTLING = 0.5  # seconds before samples count, as the sensors average over some tenths of a second

# after any of these characters a slash is part of a relative path, an address or "images/s", not an absolute path
ABSOLUTE_PATH = re.compile(r"""(?<![\w.~/)\]-])/[^\s/:;,'"`()<>\[\]{}|][^\s:;,'"`()<>\[\]{}|]*""")
OPTION_PATH = re.compile(r"([^/]*=)?(/.+)", re.DOTALL)  # --json=/home/me/a b.json: the whole word is one path


def record_machine(before: Clocks, root: Path = ROOT) -> Machine:
    """Return the record of this machine, with ``before``, its clocks when measuring began, from ``read_clocks``.

    ``root`` is the folder that /proc and /sys are in.
    """
    gpu = query_gpu()
    found = POWER_MODE.search(_tool_output(["nvpmodel", "-q"]))
    limit = f"{gpu['power.limit']} W limit" if "power.limit" in gpu else None
    return Machine(
        cpu=_cpu(root),
        cores=len(usable_cpus()),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        model=_text(root / "proc/device-tree/model").rstrip("\0") or None,
        gpu=gpu.get("name"),
        power_mode=found[1] if found else limit,
        versions=_versions(gpu, root),
        before=before,
    )


def read_clocks(root: Path = ROOT) -> Clocks:
    """Return load, clocks and temperature of now, the CPU's read first, as it rests while nvidia-smi answers."""
    load, cpu_mhz = round(os.getloadavg()[0], 2), _cpu_mhz(root)
    gpu = query_gpu()
    names = {"gpu_mhz": "clocks.sm", "gpu_memory_mhz": "clocks.mem", "gpu_celsius": "temperature.gpu"}
    found = {name: float(gpu[fact]) for name, fact in names.items() if fact in gpu}
    return Clocks(load=load, cpu_mhz=cpu_mhz, **found)


def busy_before(machine: Machine) -> str | None:
    """Return a note if the machine was busy before anything was measured, else None."""
    if machine.before.load < BUSY_LOAD:
        return None
    return f"the machine was busy when it began: load {machine.before.load:.1f} on {machine.cores} cores"


def slowed_down(before: Clocks, after: Clocks) -> str | None:
    """Return a note if clocks fell during the measurement, by heat or a power limit, else None."""
    pairs = {"CPU": (before.cpu_mhz, after.cpu_mhz), "GPU": (before.gpu_mhz, after.gpu_mhz)}
    fallen = [
        f"{name} {first:.0f} to {last:.0f} MHz"
        for name, (first, last) in pairs.items()
        if first and last and last < FALLEN_CLOCK * first
    ]
    return f"clocks fell while it was measured: {', '.join(fallen)}" if fallen else None


def without_folders(text: str) -> str:
    """Return a text, an error's message say, in which each absolute path is reduced to its name."""
    return ABSOLUTE_PATH.sub(lambda found: PurePosixPath(found.group()).name, text)


def command_line(words: Iterable[str]) -> str:
    """Return a command as typed, its absolute paths reduced to their names, those after ``=`` too."""
    paths = ((word, OPTION_PATH.fullmatch(word)) for word in words)
    return shlex.join(
        f"{path[1] or ''}{PurePosixPath(path[2]).name}" if path else without_folders(word) for word, path in paths
    )


def measure_power(call: Callable[[], object], seconds: float = POWER_SECONDS) -> tuple[float | None, float]:
    """Return a Jetson's watts while ``call`` is repeated, idle power included, and the seconds that a call takes.

    The call is repeated for so many seconds, at least once, after half a second in which the sensors settle. The watts
    are the mean of what tegrastats says of the whole module; None where it says nothing, or is not installed.
    """
    program = shutil.which("tegrastats")
    if program is None:
        return None, 0.0
    _repeat(call, SETTLING)
    command = [program, "--interval", str(SAMPLE_MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tool:  # noqa: S603
        try:
            start = time.monotonic()
            count = _repeat(call, seconds)
            each = (time.monotonic() - start) / count
        finally:
            tool.terminate()
        found = [watts for line in tool.communicate()[0].splitlines() if (watts := board_watts(line)) is not None]
    return fmean(found) if found else None, each


def _repeat(call: Callable[[], object], seconds: float) -> int:
    end = time.monotonic() + seconds
    count = 0
    while count == 0 or time.monotonic() < end:
        call()
        count += 1
    return count


def board_watts(line: str) -> float | None:
    """Return the whole module's watts from a line of tegrastats; None where the line has no rail that tells them."""
    rails = {name: int(value) for name, value in RAIL.findall(line)}
    for name in INPUT_RAILS:
        if name in rails:
            return rails[name] / 1000
    return next((sum(map(rails.__getitem__, names)) / 1000 for names in SUMMED_RAILS if names <= rails.keys()), None)


def _tool_output(command: Sequence[str]) -> str:
    """Return what a tool prints on stdout; an empty text where it is not installed, fails or hangs."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  # NVIDIA's tools, with arguments of ours
            [program, *command[1:]], capture_output=True, text=True, timeout=TOOL_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def query_gpu() -> dict[str, str]:
    """Return nvidia-smi's ``GPU_FACTS`` of the first GPU; those it does not know are left out."""
    text = _tool_output(["nvidia-smi", f"--query-gpu={','.join(GPU_FACTS)}", "--format=csv,noheader,nounits"])
    values = [item.strip() for item in text.partition("\n")[0].split(",")]
    return {
        name: value
        for name, value in zip(GPU_FACTS, values, strict=False)
        if value and not value.startswith(("[", "N/A"))
    }


def _cpu(root: Path) -> str:
    """Return the CPU's name, or its architecture on ARM, whose kernels give none: there ``model`` names the board."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Hardware"):
            return value.strip()
    return platform.machine()


def _cpu_mhz(root: Path) -> float | None:
    """Return the cores' mean MHz, from the scaling driver, else from what x86 kernels list; None if neither tells."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [int(text) / 1000 for text in map(_text, files) if text]
    lines = _text(root / "proc/cpuinfo").splitlines()
    found = clocks or [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(sum(found) / len(found), 1) if found else None


def _versions(gpu: dict[str, str], root: Path) -> dict[str, str]:
    release = _text(root / "etc/nv_tegra_release").partition(", GCID")[0].lstrip("# ")
    every = {
        "python": platform.python_version(),
        **{name: _version(name) for name in RECORDED_PACKAGES},
        "NVIDIA driver": gpu.get("driver_version", ""),
        "Jetson Linux": release,
    }
    return {name: text for name, text in every.items() if text}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
