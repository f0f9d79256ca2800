"""From a fresh process to the first line of ``hybrid-infer one.jpg``: seconds, peak memory, and what they are made of.

    python benchmarks/first_prediction.py BUNDLE

The command is timed from outside: from the start of the process to its first line on stdout, and to its end; peak
memory is the kernel's (``ru_maxrss``). What it is made of is measured in other fresh processes, which do the command's
steps one by one; both are run in turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import typer
from interleave import OUT, RESULTS, Report, interleave
from photographs import QUALITY, frame

SECONDS, MEGABYTES = 2.0, 500.0  # the project's own limits at full size in INT8
WIDTH, HEIGHT = 1280, 720
PHOTOGRAPH = "motorcycle_left.png"
STEPS = Path(__file__).with_name("first_prediction_steps.py")


@dataclass(frozen=True)
class Run:
    """One process: seconds to its first line and to its end, peak memory in MB (10⁶ bytes)."""

    first_s: float
    end_s: float
    peak_mb: float


def main(bundle: Path, precision: str = "int8", rounds: int = 15, warm_up: int = 2, out: Path = RESULTS) -> None:
    """Time the command and its steps; exit 1 where a limit is not held."""
    report = Report("first_prediction", ("hybrid-edge", "numpy", "opencv-python", "onnxruntime"))
    runs: list[Run] = []
    steps: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "one.jpg"
        cv2.imwrite(os.fspath(image), frame(PHOTOGRAPH, WIDTH, HEIGHT), QUALITY)
        place = [os.fspath(bundle.absolute()), precision, os.fspath(image)]

        def command() -> float:
            runs.append(_command(*place))
            return runs[-1].first_s

        def step_by_step() -> float:
            done = subprocess.run([sys.executable, STEPS, *place], capture_output=True, text=True, check=True)
            steps.append(json.loads(done.stdout))
            return float(sum(step["seconds"] for step in steps[-1]["steps"]))

        cases = {"hybrid-infer, to its first line": command, "its steps, one by one": step_by_step}
        timings = interleave(cases, rounds=rounds, warm_up=warm_up)
    runs, steps = runs[warm_up:], steps[warm_up:]
    seconds = float(np.median([run.first_s for run in runs]))
    peak = max(run.peak_mb for run in runs)
    report.add(
        f"hybrid-infer one.jpg --precision {precision}, a fresh process each time",
        timings,
        "hybrid-infer, to its first line",
        seconds_to_the_first_line=round(seconds, 2),
        seconds_to_the_end=round(float(np.median([run.end_s for run in runs])), 2),
        limit_s=SECONDS,
        peak_mb=round(peak, 1),
        limit_mb=MEGABYTES,
        limits_held=seconds <= SECONDS and peak <= MEGABYTES,
    )
    report.add_facts(
        "what it is made of: medians; memory is the largest up to the end of the step",
        **{name: f"{spent:.3f} s, {memory:.0f} MB" for name, spent, memory in _medians(steps)},
    )
    report.save(out)
    sys.exit(seconds > SECONDS or peak > MEGABYTES)


def _command(bundle: str, precision: str, image: str) -> Run:
    words = [os.fspath(Path(sys.executable).with_name("hybrid-infer")), image, "--bundle", bundle]
    words += ["--precision", precision, "--backend", "cpu"]
    begun = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None  # noqa: S101  # it is a pipe
    line = process.stdout.readline()
    first = time.perf_counter() - begun
    process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    end = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not line:
        sys.exit(f"{' '.join(words[1:])} ended with {process.returncode}")
    return Run(first, end, usage.ru_maxrss * 1024 / 1e6)


def _medians(steps: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    rows = []
    for number, step in enumerate(steps[0]["steps"]):
        spent = float(np.median([item["steps"][number]["seconds"] for item in steps]))
        rows.append((step["name"], spent, float(np.median([item["steps"][number]["peak_mb"] for item in steps]))))
    OUT.print(f"sum of the steps: {sum(row[1] for row in rows):.2f} s")
    return rows


if __name__ == "__main__":
    typer.run(main)
