"""Ask NVIDIA's own tools about a GPU or a Jetson: nvidia-smi, nvpmodel, tegrastats. None of them is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

__all__ = ["GpuFacts", "board_watts", "power_mode", "query_gpu", "tool_output"]

TIMEOUT = 10.0  # seconds for a tool: nvidia-smi takes 1 to 3 where the driver is not kept loaded
QUERY = ("name", "driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "power.limit")
GpuFacts = dict[str, str]

# the first of these on a board is all of its input. Nano: "POM_5V_IN measures the overall 5V input to the
# board"; Xavier NX, Orin NX, Orin Nano, TX2: VDD_IN (NVIDIA, Jetson Linux Developer Guide, "Platform Power and
# Performance"); Thor: VIN, of module and carrier board ("total VIN monitoring", NVIDIA's developer forum, topic 366461)
TOTALS = ("VDD_IN", "POM_5V_IN", "VIN")
# on boards without one, the rails at the module's inputs are summed; those behind them would count twice
SUMMED = ({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}, {"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"})
# "VDD_IN 12479mW/12300mW", before JetPack 5 "VDD_IN 4067/4067": milliwatts now and on average; JetPack 7.2 has a third
RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?(?:/\d+(?:mW)?){1,2}(?!\S)")
MODE = re.compile(r"NV Power Mode: *(\S+)")


def tool_output(command: Sequence[str]) -> str | None:
    """Return what a tool prints on stdout; None where it is not installed, fails or hangs."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  # NVIDIA's tools, with arguments of ours
            [program, *command[1:]], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def query_gpu() -> GpuFacts:
    """Return nvidia-smi's facts of the first GPU, by the names in ``QUERY``; those it does not know are left out."""
    text = tool_output(["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"])
    first = (text or "").strip().splitlines()[:1]
    values = [item.strip() for item in first[0].split(",")] if first else []
    return {name: value for name, value in zip(QUERY, values, strict=False) if value and value[0] not in "[N"} | (
        {"name": values[0]} if values else {}
    )


def power_mode() -> str | None:
    """Return a Jetson's power mode, as in ``MAXN`` or ``15W``; None on other machines."""
    found = MODE.search(tool_output(["nvpmodel", "-q"]) or "")
    return found.group(1) if found else None


def board_watts(line: str) -> float | None:
    """Return the whole module's watts from a line of tegrastats; None where the line has no rail that tells them."""
    rails = {name: int(value) for name, value in RAIL.findall(line)}
    for name in TOTALS:
        if name in rails:
            return rails[name] / 1000
    for names in SUMMED:
        if names <= rails.keys():
            return sum(rails[name] for name in names) / 1000
    return None
