"""Start fresh processes, one after the other, and measure each variant's time and memory to the first prediction."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backends import Selection
from ..bundle import Bundle
from ..errors import BackendError
from .report import Start

__all__ = ["measure_starts"]

MODULE = "hybrid_edge.runtime.bench.first"
TIMEOUT = 600.0  # seconds for one process: the golden check of a large FP32 model on a small CPU takes tens
LINES = 3  # lines kept of a failed process's stderr, whose last ones name the error


def measure_starts(
    bundle: Bundle,
    selections: Sequence[Selection],
    *,
    count: int,
    threads: int | None,
    profile: tuple[int, int, int],
    after: Callable[[], object] = lambda: None,
) -> dict[str, Start]:
    """Start ``count`` processes for each variant, in turn, and take the medians.

    Args:
        bundle: the bundle that the processes open.
        selections: the variants, whose engines are built already.
        count: the number of processes for each variant, 0 for none.
        threads: CPU threads for one batch; None leaves the number to the engine.
        profile: the batch sizes of TensorRT's engines.
        after: called after each process.

    Raises:
        BackendError: one of the processes failed; the message quotes what it said.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(count):
        for selection in selections:
            name = selection.variant.name
            request = {"bundle": str(bundle.root), "variant": name, "threads": threads, "profile": profile}
            found.setdefault(name, []).append(_start(request))
            after()
    return {name: _medians(runs) for name, runs in found.items()}


def _start(request: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps({**request, "started": time.monotonic()})
    try:
        done = subprocess.run(  # noqa: S603  # this interpreter, this package
            [sys.executable, "-m", MODULE, content], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(request, str(error)) from error
    if done.returncode != 0:
        raise _failed(request, " ".join(done.stderr.split("\n")[-LINES - 1 :]).strip() or f"exit {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _failed(request: dict[str, Any], reason: str) -> BackendError:
    return BackendError(
        f"variant {request['variant']}: expected a fresh process to classify one frame, found: {reason}; it runs in "
        "this process: free memory, or leave its start out with --starts 0"
    )


def _medians(runs: list[dict[str, Any]]) -> Start:
    middle = {
        name: None if runs[0][name] is None else float(np.median([run[name] for run in runs])) for name in runs[0]
    }
    return Start(**middle, runs=len(runs))  # type: ignore[arg-type]
