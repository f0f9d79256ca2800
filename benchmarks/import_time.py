"""What the runtime costs to start: fresh processes, interleaved with the libraries it needs anyway.

The package loads its names on first use, so ``import hybrid_edge.runtime`` alone says little: the whole public API is
timed as well, and the command as a user starts it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import typer
from interleave import RESULTS, Report, interleave

LIMIT = 0.5  # seconds: the project's own target for importing the runtime
LIBRARIES = "import cv2, numpy, pydantic, rich, typer"
IMPORTS = {
    "libraries alone": LIBRARIES,
    "hybrid_edge.runtime": "import hybrid_edge.runtime",
    "hybrid_edge.runtime, all public names": "from hybrid_edge.runtime import *",
}


def main(rounds: int = 15, warm_up: int = 2, out: Path = RESULTS) -> None:
    """Time the imports inside their processes, and whole processes from outside."""
    report = Report(
        "import_time", ("hybrid-edge", "numpy", "opencv-python", "pydantic", "rich", "typer", "onnxruntime")
    )
    imports = interleave(
        {name: _inside(statement) for name, statement in IMPORTS.items()}, rounds=rounds, warm_up=warm_up
    )
    slowest = max(float(np.median(times)) for name, times in imports.items() if name != "libraries alone")
    report.add(
        "seconds of an import, measured inside a fresh process",
        imports,
        "libraries alone",
        limit_ms=LIMIT * 1e3,
        limit_held=slowest < LIMIT,
    )
    command = Path(sys.executable).with_name("hybrid-infer")
    processes = {
        "python -c pass": _process(sys.executable, "-c", "pass"),
        "libraries alone": _process(sys.executable, "-c", LIBRARIES),
        "import hybrid_edge.runtime": _process(sys.executable, "-c", "import hybrid_edge.runtime"),
        "hybrid-infer --help": _process(str(command), "--help"),
    }
    report.add(
        "whole processes, from start to end",
        interleave(processes, rounds=rounds, warm_up=warm_up),
        "libraries alone",
    )
    report.save(out)
    sys.exit(slowest >= LIMIT)


def _inside(statement: str) -> Callable[[], float]:
    code = f"import time; start = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"

    def case() -> float:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(done.stdout)

    return case


def _process(*words: str) -> Callable[[], None]:
    def case() -> None:
        subprocess.run(words, capture_output=True, check=True)

    return case


if __name__ == "__main__":
    typer.run(main)
