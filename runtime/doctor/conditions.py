"""The conditions of rules that take more than a line: each returns what it found of the facts, or None."""

from __future__ import annotations

import re

from ..versions import below, onnxruntime_remark, release
from .facts import Facts

OLDEST_YEAR = 2026  # of the release: a clock that shows an earlier one was never set
SMALL_MEMORY, SMALL_JETSON = 2048, 16384  # MiB below which building an engine, or a large batch, may not fit
VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
# these choose the clock by themselves, and "powersave" is the name of their ordinary way
OWN_GOVERNORS = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
# the CUDA of each Jetson Linux
JETSON_CUDA = {36: (12, 6), 38: (13, 0), 39: (13, 2)}
CUDA_DRIVERS = {12: "525.60", 13: "580.65"}  # the oldest driver for each CUDA
FOR_CUDA_13 = re.compile(r".*-cu13(-.*)?")
FOR_GPU = re.compile(r"(onnxruntime-gpu|tensorrt|cuda-python|cuda-bindings)(-.*)?")
NEEDED = ("numpy", "cv2")
GPU_MODULES = ("tensorrt", "tensorrt_rtx", "cuda.bindings.runtime")
DISTRIBUTIONS = {"mqtt": ("paho-mqtt",), "web": ("starlette", "uvicorn"), "metrics": ("prometheus-client",)}


def on_board(facts: Facts, name: str) -> bool:
    """Return whether the board's name holds a word, such as ``Orin``."""
    return name.lower() in (facts.board or "").lower()


def tensorrt_between(facts: Facts, first: str, end: str) -> str | None:
    """Find a TensorRT from ``first`` on and before ``end``."""
    version = facts.tensorrt
    return f"TensorRT {version}" if not below(version, first) and below(version, end) else None


def cannot_import(facts: Facts) -> str | None:
    """Find libraries that can't be imported, but for those that other rules explain.

    These are an OpenCV built for NumPy 1, and what needs an NVIDIA driver where there is none.
    """
    explained = {"cv2"} if old_numpy_opencv(facts) else set()
    explained |= set(GPU_MODULES) if no_driver(facts) else set()
    failures = {name: why for name, why in facts.import_failures.items() if name not in explained}
    return "; ".join(f"{name}: {why}" for name, why in failures.items()) or None


def lacks_library(facts: Facts) -> str | None:
    """Find a library that every command needs and that is not there; facts without imports tell nothing."""
    if not facts.imported:
        return None
    lacking = [name for name in NEEDED if name not in facts.imported and name not in facts.import_failures]
    return f"no {', no '.join(lacking)}" if lacking else None


def lacks_engine(facts: Facts) -> str | None:
    """Find that there is no engine at all."""
    engines = {"onnxruntime", "tensorrt", "tensorrt_rtx"} & {*facts.imported, *facts.import_failures}
    there = engines or facts.onnxruntimes or facts.tensorrt
    return None if there or not facts.python else "neither ONNX Runtime nor TensorRT"


def old_numpy_opencv(facts: Facts) -> str | None:
    """Find NumPy 2 under an OpenCV built for NumPy 1: by its error, its version, or as JetPack 6's own."""
    numpy, opencv = facts.packages.get("numpy") or facts.imported.get("numpy"), facts.opencv
    if not release(numpy) or below(numpy, "2"):
        return None
    why = facts.import_failures.get("cv2", "").lower()
    told = "numpy" in why or "_array_api" in why
    by_version = "cv2" not in facts.imported and bool(facts.opencvs) and below(opencv, "4.10.0.84")
    of_jetpack = (
        "cv2" not in facts.imported and not facts.opencvs and facts.jetpack in (5, 6) and bool(facts.system_opencv)
    )
    return f"NumPy {numpy} with OpenCV {opencv or 'of the system'}" if told or by_version or of_jetpack else None


def old_opencv_jpeg(facts: Facts) -> str | None:
    """Find an OpenCV 4.10 or 4.11."""
    return f"OpenCV {facts.opencv}" if release(facts.opencv)[:2] in ((4, 10), (4, 11)) else None


def several(names: dict[str, str]) -> str | None:
    """Find more than one of what should be one."""
    return " and ".join(f"{name} {version}" for name, version in sorted(names.items())) if len(names) > 1 else None


def cuda_python(facts: Facts) -> tuple[str, str] | None:
    """Return the name and version of the package that brings CUDA's runtime to Python."""
    names = ("cuda-bindings", "cuda-python")
    return next(((name, facts.packages[name]) for name in names if name in facts.packages), None)


def cuda_python_over_driver(facts: Facts) -> str | None:
    """Find a cuda-python that is newer than the driver, by both versions, or because it said so."""
    package = cuda_python(facts)
    if package is None or not facts.driver or cuda_python_over_jetpack(facts):
        return None
    oldest = CUDA_DRIVERS.get(release(package[1])[0] if release(package[1]) else 0)
    told = (facts.cuda or "").startswith("cudaErrorInsufficientDriver")
    if told or (oldest and below(facts.driver, oldest)):
        return f"{package[0]} {package[1]} with driver {facts.driver}"
    return None


def cuda_python_over_jetpack(facts: Facts) -> str | None:
    """Find a cuda-python with a later CUDA than JetPack's, unless it was tried and saw the GPU."""
    package, jetson_linux = cuda_python(facts), release(facts.jetson_linux)
    newest = JETSON_CUDA.get(jetson_linux[0]) if jetson_linux else None
    works = (facts.cuda or "").startswith("cudaSuccess")
    if package is None or newest is None or works or release(package[1])[:2] <= newest:
        return None
    return f"{package[0]} {package[1]} on Jetson Linux {facts.jetson_linux}, whose CUDA is {newest[0]}.{newest[1]}"


def cuda_13_over_driver(facts: Facts) -> str | None:
    """Find packages for CUDA 13 with a driver that runs none."""
    if not below(facts.driver, CUDA_DRIVERS[13]):
        return None
    names = [name for name in facts.packages if FOR_CUDA_13.fullmatch(name)]
    for name, first in (("onnxruntime-gpu", "1.27"), ("tensorrt", "11")):
        if name in facts.packages and not below(facts.packages[name], first):
            names.append(name)
    shown = ", ".join(f"{name} {facts.packages[name]}" for name in sorted(names)[:4])
    return f"{shown} with driver {facts.driver}" if names else None


def no_driver(facts: Facts) -> str | None:
    """Find packages for an NVIDIA GPU where no driver is seen."""
    names = sorted(name for name in facts.packages if FOR_GPU.fullmatch(name))
    if facts.driver or facts.is_jetson or not names:
        return None
    return f"{', '.join(names[:3])} without an NVIDIA driver"


def onnxruntime_holes(facts: Facts, *, newer: bool) -> str | None:
    """Find an ONNX Runtime with known holes; ``newer``: for whose Python there is a later one, or for none."""
    version, python = facts.onnxruntime, release(facts.python)[:2]
    if not version or not python or onnxruntime_remark(version, python) is None:
        return None
    is_last = python < (3, 11) and not below(version, "1.23.2")
    is_last |= "onnxruntime-gpu" in facts.packages and below(facts.driver, CUDA_DRIVERS[13])
    return f"ONNX Runtime {version} on Python {facts.python}" if newer != is_last else None


def older_package(facts: Facts, name: str, bound: str) -> str | None:
    """Find a package below a bound."""
    return f"{name} {facts.packages[name]}" if below(facts.packages.get(name), bound) else None


def no_dot_products(facts: Facts) -> str | None:
    """Find a 64-bit ARM whose CPU lacks the dot products of 8 bits."""
    flags = set(facts.cpu_flags)
    return "a 64-bit ARM without asimddp" if "asimd" in flags and not flags & {"asimddp", "i8mm"} else None


def no_vnni(facts: Facts) -> str | None:
    """Find an x86 CPU without the dot products of 8 bits."""
    found = "avx2" in facts.cpu_flags and not VNNI & set(facts.cpu_flags)
    return f"{facts.cpu or facts.machine} without VNNI" if found else None


def low_power_mode(facts: Facts) -> str | None:
    """Find a Jetson in a power mode that is not its largest."""
    mode = facts.power_mode
    return f"power mode {mode}" if facts.is_jetson and mode and not mode.upper().startswith("MAXN") else None


def powersave(facts: Facts) -> str | None:
    """Find the governor that keeps the lowest clock."""
    own = facts.scaling_driver in OWN_GOVERNORS
    return f"governor powersave ({facts.scaling_driver})" if facts.governor == "powersave" and not own else None


def capped_clock(facts: Facts) -> str | None:
    """Find a clock that may not rise to what the CPU can."""
    clock, top = facts.clock, facts.top_clock
    return f"at most {clock} of {top} MHz" if clock and top and clock < 0.95 * top else None


def little_memory(facts: Facts) -> str | None:
    """Find little memory and no swap to go with it; a Jetson's GPU takes of the same."""
    memory = min((size for size in (facts.memory, facts.memory_limit) if size), default=None)
    small = SMALL_JETSON if facts.is_jetson else SMALL_MEMORY
    return f"{memory} MiB of memory, no swap" if memory and memory < small and facts.swap == 0 else None


def time_not_set(facts: Facts) -> str | None:
    """Find a clock that shows a time before this release."""
    year = release((facts.time or "").replace("-", "."))[:1]
    return f"the time is {facts.time}" if year and year < (OLDEST_YEAR,) else None


def unfit_python(facts: Facts) -> str | None:
    """Find a Python other than those on which the tests run."""
    python = release(facts.python)[:2]
    return f"Python {facts.python}" if python and not (3, 10) <= python <= (3, 13) else None


def unfit_machine(facts: Facts) -> str | None:
    """Find an architecture for which no ONNX Runtime is published."""
    machine = facts.machine
    return machine if machine and machine.lower() not in ("x86_64", "amd64", "aarch64", "arm64") else None


def headless_opencv(facts: Facts) -> str | None:
    """Find an OpenCV that opens no windows."""
    names = [name for name in facts.opencvs if name.endswith("-headless")]
    return f"{names[0]} {facts.packages[names[0]]}" if names else None


def lacks_extra(facts: Facts, name: str) -> str | None:
    """Find that the packages of an extra are not all there."""
    lacking = [item for item in DISTRIBUTIONS[name] if item not in facts.packages]
    return f"no {', no '.join(lacking)}" if lacking else None
