"""The reference training as a user starts it: seconds a step of both phases and peak memory of ``hybrid-train``.

A phase's first epoch holds the tracing of the graph, which takes longer than the steps; every epoch holds the
validation and the saving of the one before it. So the command runs twice, with few and with more steps an epoch, and a
step is the difference of the second epochs divided by the difference of the steps. The CNN's weights are random but
come from a file, so phase 1 freezes it and reads its features from the cache.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import typer
from interleave import RESULTS, Report
from photographs import write_crops

from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.tensorflow_import import import_tensorflow
from hybrid_edge.train.training_settings import PHASES

WEIGHTS = "random.keras"
EPOCHS = 2  # the first for tracing, the last for timing
BN_BATCHES = 2  # of 40: re-estimating BatchNorm is no training step, and forty batches would be most of the time
MIB_PER_KIB = 1 / 1024


@dataclass(frozen=True)
class Run:
    """One call of ``hybrid-train``: seconds of each phase's last epoch, of filling the cache and in all; peak MiB."""

    steps: int
    epochs: dict[int, float]
    features: tuple[int, float]
    seconds: float
    peak: float


def main(
    few: int = 3,
    more: int = 13,
    image_size: int = 299,
    timesteps: int = 23,
    rnn_units: int = 2048,
    classes: int = 100,
    images_a_class: int = 3,
    data: Path | None = None,
    out: Path = RESULTS,
) -> None:
    """Train a few steps of both phases twice; DATA is a folder of class folders, by default crops of photographs."""
    spec = ModelSpec(image_size=image_size, timesteps=timesteps, rnn_units=rnn_units)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_weights(spec, folder / WEIGHTS)
        source = (data or write_crops(folder / "crops", classes * images_a_class, classes)).absolute()
        runs = [train(folder, source, spec, steps) for steps in (few, more)]
    report = Report("training_step", ("hybrid-edge", "tensorflow", "keras", "numpy", "opencv-python"))
    for number, phase in enumerate(PHASES["xception-lstm"], start=1):
        epochs = [run.epochs[number] for run in runs]
        report.add_facts(
            f"phase {number}, batch {phase.batch_size}, {phase.optimizer}, "
            f"{'CNN frozen, its features cached' if phase.freeze_cnn else 'all layers'}",
            seconds_a_step=round((epochs[1] - epochs[0]) / (more - few), 2),
            last_epoch_s={run.steps: round(seconds, 1) for run, seconds in zip(runs, epochs, strict=True)},
        )
    computed, seconds = runs[0].features
    report.add_facts(
        f"hybrid-train, {image_size}x{image_size}, {timesteps} timesteps, 2 LSTM({rnn_units}), both phases",
        peak_memory_mib={run.steps: round(run.peak) for run in runs},
        command_s={run.steps: round(run.seconds, 1) for run in runs},
        features_computed=computed,
        features_ms_an_image=round(seconds / computed * 1e3, 1),
        features_computed_by_the_second_run=runs[1].features[0],
        bn_batches=BN_BATCHES,
    )
    report.save(out)


def make_weights(spec: ModelSpec, path: Path) -> None:
    """A model file of the CNN alone with random weights, which is all that ``--weights FILE`` takes from a file."""
    import_tensorflow()
    import keras

    from hybrid_edge.train.model import build_model
    from hybrid_edge.train.model_file import save_model

    keras.utils.set_random_seed(0)
    alone = spec.replace(branches="cnn", class_labels=("one", "two"))
    save_model(build_model(alone), alone, path)


def train(folder: Path, data: Path, spec: ModelSpec, steps: int) -> Run:
    """Run the command with ``steps`` steps an epoch and take its peak memory from the kernel."""
    options: dict[str, object] = {
        "weights": folder / WEIGHTS,
        "image-size": spec.image_size,
        "timesteps": spec.timesteps,
        "rnn-units": spec.rnn_units,
        "phase1-epochs": EPOCHS,
        "phase1-steps": steps,
        "phase2-epochs": EPOCHS,
        "phase2-steps": steps,
        "bn-batches": BN_BATCHES,
        "runs": folder / "runs",
        "name": f"steps-{steps}",
    }
    words = [str(Path(sys.executable).with_name("hybrid-train")), str(data)]
    words += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "HYBRID_EDGE_CACHE": str(folder / "cache"), "COLUMNS": "500"}
    log = folder / f"steps-{steps}.log"
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    found = re.search(r"features of the frozen CNN: (\d+) computed.*\(([\d.]+) s\)", log.read_text())
    if found is None:
        sys.exit(f"hybrid-train did not say how many features it computed:\n{log.read_text()[-3000:]}")
    with (folder / "runs" / f"steps-{steps}" / "history.csv").open() as rows:
        epochs = {int(float(row["phase"])): float(row["seconds"]) for row in csv.DictReader(rows)}  # the last one stays
    return Run(
        steps,
        epochs,
        (int(found[1]), float(found[2])),
        time.perf_counter() - started,
        usage.ru_maxrss * MIB_PER_KIB,
    )


if __name__ == "__main__":
    typer.run(main)
