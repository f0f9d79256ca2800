"""Interleaved timing: every round runs every case once, so that a busy moment of the machine falls on all of them.

Single times of a noisy machine mean little; the ratio of two cases inside one round means more. A report therefore
gives the medians, their ratio, and how much the ratios of the single rounds spread.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hybrid_edge.runtime.bench.machine import command_line

__all__ = ["RESULTS", "Report", "Timings", "interleave"]

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 120)

Timings = Mapping[str, list[float]]


def interleave(cases: Mapping[str, Callable[[], float | None]], *, rounds: int, warm_up: int = 1) -> Timings:
    """Run every case once a round, each round starting with another one.

    Args:
        cases: by name. A case that returns a number has measured its own seconds; of the others the call is timed.
        rounds: how many are kept.
        warm_up: rounds before those, which are thrown away.

    Returns:
        Seconds by name, in the order of the rounds, so that equal positions are pairs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(-warm_up, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            own = cases[name]()
            passed = time.perf_counter() - started
            if number >= 0:
                seconds[name].append(passed if own is None else own)
    return seconds


class Report:
    """Prints tables as they come and keeps their numbers for ``results/NAME.json``."""

    def __init__(self, name: str, packages: tuple[str, ...]) -> None:
        self.name = name
        self.content: dict[str, Any] = {
            "benchmark": name,
            "command": _command(),
            "machine": _machine(),
            "versions": {"python": platform.python_version()} | {item: _version(item) for item in packages},
            "tables": [],
        }

    def add(self, title: str, timings: Timings, baseline: str, *, unit: str = "ms", **facts: Any) -> None:
        """Print one table of timings and the facts below it; the JSON gets seconds, and the ratios to ``baseline``."""
        cases = {name: _summary(times, timings[baseline]) for name, times in timings.items()}
        rounds = len(timings[baseline])
        table = Table()
        table.add_column("case")
        for column in (f"min {unit}", "median", "max", "ratio of medians", "of rounds, 10..90 %"):
            table.add_column(column, justify="right")
        scale = {"ms": 1e3, "s": 1.0}[unit]
        for name, case in cases.items():
            times = [f"{case[key] * scale:.2f}" for key in ("min", "median", "max")]
            table.add_row(name, *times, f"{case['ratio']:.2f}", f"{case['ratio_p10']:.2f} .. {case['ratio_p90']:.2f}")
        OUT.print(f"{title}, {rounds} interleaved rounds", soft_wrap=True)
        OUT.print(table)
        self._keep({"title": title, "unit": "s", "rounds": rounds, "baseline": baseline, "cases": cases}, facts)

    def add_facts(self, title: str, **facts: Any) -> None:
        """Print measured numbers that are no interleaved timings."""
        OUT.print(title)
        self._keep({"title": title}, facts)

    def save(self, folder: Path = RESULTS) -> None:
        """Write ``NAME.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(self.content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        OUT.print(f"{path.parent.name}/{path.name} written")

    def _keep(self, table: dict[str, Any], facts: dict[str, Any]) -> None:
        for key, value in facts.items():
            OUT.print(f"  {key.replace('_', ' ')}: {value}", markup=False)
        self.content["tables"].append({**table, **({"facts": facts} if facts else {})})


def _summary(times: list[float], baseline: list[float]) -> dict[str, float]:
    paired = np.array(times) / np.array(baseline)
    values = {
        "min": min(times),
        "median": np.median(times),
        "max": max(times),
        "ratio": np.median(times) / np.median(baseline),
        "ratio_p10": np.percentile(paired, 10),
        "ratio_p90": np.percentile(paired, 90),
    }
    return {key: float(f"{value:.4g}") for key, value in values.items()}


def _command() -> str:
    """The command as typed, with no path of this machine in it."""
    return command_line(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def _machine() -> dict[str, Any]:
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "system": platform.system(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
