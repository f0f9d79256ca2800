"""Reads from ONNX Runtime's trace of a profiled session how long each node took."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["read_trace"]

MICROSECOND = 1e-3  # a microsecond in milliseconds
KERNEL = "_kernel_time"
LOOPS = ("Scan",)  # the nodes inside have events of their own
RUN = "model_run"  # the event that ends the events of each run


def read_trace(path: Path, *, runs: int) -> dict[str, float]:
    """Return each node's milliseconds in one run, the median of the last ``runs``; runs before them were warm-up.

    Args:
        path: the JSON that ``end_profiling`` names: Chrome's trace format, an event for each node of each run.
        runs: the number of runs that count, at least 1.
    """
    taken: list[dict[str, float]] = [defaultdict(float)]
    for event in json.loads(path.read_bytes()):
        if event["name"] == RUN:
            taken.append(defaultdict(float))
        elif event.get("cat") == "Node" and event["name"].endswith(KERNEL) and _operator(event) not in LOOPS:
            taken[-1][event["name"].removesuffix(KERNEL)] += event["dur"] * MICROSECOND
    counted = taken[:-1][-runs:]
    return {name: median(run[name] for run in counted) for name in counted[-1]}


def _operator(event: dict[str, Any]) -> str:
    return str(event.get("args", {}).get("op_name", ""))
