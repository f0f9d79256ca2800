"""An epoch at MNIST's size: images a second, and whether memory stays flat.

70,000 images of 28 x 28 as class folders, 60,000 to train on and 10,000 to validate: scikit-learn's digits, repeated
and jittered as training jitters them. ``hybrid-train --preset digits`` runs on them as a process of its own, whose
memory is read once a second; flat means that the epochs after the first take less than a twentieth more than it did.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from interleave import RESULTS, Report
from rich.progress import track
from sklearn.datasets import load_digits

from hybrid_edge.runtime.digits import mnist_frame
from hybrid_edge.train.augment import augment

SPLITS = {"train": 60_000, "val": 10_000}
FLAT = 0.05
MIB = 2**20
Branches = Annotated[list[str] | None, typer.Option(help="of cnn, rnn, hybrid; default: all")]


def main(branches: Branches = None, epochs: int = 3, data: Path | None = None, out: Path = RESULTS) -> None:
    """Train each; DATA is a folder of class folders made before, and is made where it is missing."""
    report = Report("mnist_size", ("hybrid-edge", "tensorflow", "keras", "numpy", "opencv-python"))
    grown: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = data or Path(temporary) / "data"
        if not folder.exists():
            write(folder)
        for name in branches or ("cnn", "rnn", "hybrid"):
            facts = train(folder, Path(temporary) / "runs", name, epochs)
            report.add_facts(f"{name}: {SPLITS['train']} images an epoch, {epochs} epochs", **facts)
            grown += [name] if facts["growth_after_the_first_epoch"] > FLAT else []
    report.save(out)
    raise typer.Exit(bool(grown))


def write(folder: Path) -> None:
    """The images, each class in its folder."""
    source = load_digits()
    frames = [mnist_frame(image) for image in np.rint(source.images * (255 / 16)).astype(np.uint8)]
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
        for number in track(range(count), description=f"writing {split}"):
            chosen = number % len(frames)
            colour = np.repeat(frames[chosen][:, :, None], 3, axis=2)
            image = augment(colour, rng, "digits")[:, :, 0]
            cv2.imwrite(str(folder / split / str(source.target[chosen]) / f"{number:05d}.png"), image)


def train(data: Path, runs: Path, branches: str, epochs: int) -> dict[str, Any]:
    """Train one and read its memory meanwhile."""
    options = ["--preset", "digits", "--branches", branches, "--phase1-epochs", epochs, "--phase2-epochs", 0]
    command = [Path(sys.executable).with_name("hybrid-train"), data, *options, "--runs", runs, "--name", branches]
    history = runs / branches / "history.csv"
    samples: list[tuple[int, int]] = []
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        done = len(history.read_text().splitlines()) - 1 if history.exists() else 0
        samples.append((done, resident(process.pid)))
        time.sleep(1)
    if process.returncode:
        raise SystemExit(f"hybrid-train ended with {process.returncode}")
    with history.open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    metrics = json.loads((runs / branches / "metrics.json").read_text())
    return {
        "images_a_second": [round(SPLITS["train"] / epoch) for epoch in seconds],
        "seconds_an_epoch_with_its_validation": [round(epoch, 1) for epoch in seconds],
        "validation_accuracy": round(metrics["top1"], 4),
        **memory(samples, epochs),
    }


def memory(samples: list[tuple[int, int]], epochs: int) -> dict[str, Any]:
    """The most that was resident in the first epoch and in those after it; what comes after them draws plots."""
    first = max(size for done, size in samples if done == 0)
    later = max((size for done, size in samples if 0 < done < epochs), default=0)
    return {
        "resident_mib_in_epoch_1": first // MIB,
        "resident_mib_after_it": later // MIB,
        "growth_after_the_first_epoch": round(later / first - 1, 3),
    }


def resident(pid: int) -> int:
    """Bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it ended just now
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    typer.run(main)
