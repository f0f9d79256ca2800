"""The digits models by command, as a user makes them: trained, exported, and asked about what they never saw.

scikit-learn's digits, a fifth held out; CNN, RNN and hybrid each by ``hybrid-train --preset digits`` and
``hybrid-export --fp32 --int8``. Then the held-out fifth and the forty drawings of tests/data, in the middle of the
canvas, in its corners, at half and at double size with the same brush, by the public ``Classifier``. Exit code 1 where
a limit is missed. About a minute and a half.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from interleave import RESULTS, Report

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.data.drawings import PLACES, read_drawings

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.digits import drawn_frame

LIMITS = {"cnn": 0.98, "rnn": 0.97, "hybrid": 0.98}
SECONDS = 60.0  # to train one, on two cores
DRAWN = 36  # of 40, by CNN and hybrid
INT8_LOSS = 0.005
Branches = Annotated[list[str] | None, typer.Option(help=f"of {', '.join(LIMITS)}; default: all")]


def main(branches: Branches = None, seed: int = 0, folder: Path | None = None, out: Path = RESULTS) -> None:
    """Train, export and measure; FOLDER keeps data and runs, by default they are thrown away."""
    report = Report("digits", ("hybrid-edge", "tensorflow", "keras", "onnxruntime", "scikit-learn", "opencv-python"))
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        run("hybrid-prepare", "digits", place / "digits")
        for name in branches or LIMITS:
            failed += measure(report, name, place, seed)
    report.save(out)
    for fault in failed:
        print(f"over its limit: {fault}")
    raise typer.Exit(bool(failed))


def measure(report: Report, branches: str, place: Path, seed: int) -> list[str]:
    """One model; what missed its limit."""
    options = ["--preset", "digits", "--branches", branches, "--seed", seed, "--name", branches]
    seconds, cpu = run("hybrid-train", place / "digits", *options, "--runs", place / "runs")
    run("hybrid-export", place / "runs" / branches, "--fp32", "--int8")
    facts: dict[str, Any] = {"training_s": round(seconds, 1), "training_cpu_s": round(cpu, 1)}
    for precision in ("fp32", "int8"):
        facts[precision] = ask(place / "runs" / branches, precision, place / "digits" / "test")
    report.add_facts(f"{branches}, seed {seed}", **facts)
    return faults(branches, facts)


def ask(run_folder: Path, precision: str, test: Path) -> dict[str, Any]:
    """Accuracy on the held-out images, and how many of the forty drawings are right at each place."""
    with Classifier.load(run_folder, backend="cpu", precision=precision, threads=1) as classifier:
        files = sorted(test.glob("*/*.png"))
        right = [found.label == file.parent.name for found, file in zip(classifier.predict(files), files, strict=True)]
        drawn = {}
        for place, how in PLACES.items():
            drawings = read_drawings()
            frames = [np.repeat(drawn_frame(drawing.ink(*how))[:, :, None], 3, axis=2) for drawing in drawings]
            found = classifier.predict(frames)
            drawn[place] = sum(one.label == str(drawing.digit) for one, drawing in zip(found, drawings, strict=True))
        variant = classifier.selection.variant.name
    return {
        "variant": variant,
        "images": len(files),
        "accuracy": round(float(np.mean(right)), 4),
        "drawings_of_40": drawn,
    }


def faults(branches: str, facts: dict[str, Any]) -> list[str]:
    """Each limit that was missed, in words."""
    found = []
    full, small = facts["fp32"], facts["int8"]
    if full["accuracy"] < LIMITS[branches]:
        found.append(f"{branches}: accuracy {full['accuracy']:.1%} of {LIMITS[branches]:.0%}")
    if small["accuracy"] < full["accuracy"] - INT8_LOSS:
        found.append(f"{branches}: INT8 {small['accuracy']:.1%}, FP32 {full['accuracy']:.1%}")
    if facts["training_s"] > SECONDS:
        found.append(f"{branches}: trained in {facts['training_s']} s, limit {SECONDS:.0f} s")
    if branches != "rnn":
        for name, answers in (("FP32", full), ("INT8", small)):
            worst = min(answers["drawings_of_40"].values())
            if worst < DRAWN:
                found.append(f"{branches}, {name}: {worst} of 40 drawings, limit {DRAWN}")
    return found


def run(command: str, *arguments: object) -> tuple[float, float]:
    """One of the project's commands; its seconds and its CPU seconds."""
    before, started = os.times(), time.perf_counter()
    program = Path(sys.executable).with_name(command)
    subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, spent


if __name__ == "__main__":
    typer.run(main)
