"""Training on several devices beside training on one: each epoch's loss, and images a second, validation included.

The devices are logical CPUs, which share the machine's cores: the losses say whether several devices train as one does,
and the images a second what splitting and summing costs. How much faster several GPUs are, they don't say. The RNN
alone has nothing random; the hybrid's dropout makes other seeds, and other devices, other curves.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import typer
from interleave import RESULTS, Report

from hybrid_edge.runtime.spec import Branches, preset
from hybrid_edge.train.tensorflow_import import import_tensorflow
from hybrid_edge.train.training_settings import PHASES, TrainSettings


def main(devices: int = 2, epochs: int = 6, seeds: int = 3, out: Path = RESULTS) -> None:
    """Train the digits networks on one and on several logical CPUs, with the same seeds."""
    import_tensorflow()
    import tensorflow as tf

    from hybrid_edge.train.handwritten_digits import prepare_digits

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    report = Report("devices", ("hybrid-edge", "tensorflow", "keras", "numpy"))
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "digits"
        prepare_digits(data)
        cases: tuple[tuple[Branches, int], ...] = (("rnn", 1), ("hybrid", seeds))
        for branches, count in cases:
            for seed in range(count):
                for used in (1, devices):
                    measured = _trained(data, branches, epochs, seed, used)
                    report.add_facts(f"{branches}, seed {seed}, {used} of {devices} logical CPUs", **measured)
    report.save(out)


def _trained(data: Path, branches: Branches, epochs: int, seed: int, devices: int) -> dict[str, Any]:
    from hybrid_edge.train import trainer

    first, second = PHASES["digits"]
    settings = TrainSettings.make(
        data=str(data),
        spec=preset("digits", branches),
        phases=(first.model_copy(update={"epochs": epochs}), second),
        seed=seed,
        augment=True,
        workers=1,
        devices=devices,
    )
    run = trainer.train(settings, data.parent / "runs")
    rows, metrics = run.read_history(), run.read_json(run.metrics)
    seconds = float(np.median([row["seconds"] for row in rows[1:]]))  # the first traces the graphs
    return {
        "loss": [round(row["loss"], 4) for row in rows],
        "val_loss": [round(row["val_loss"], 4) for row in rows],
        "top1": metrics["top1"],
        "images_a_second": round(metrics["training_images"] / seconds),
    }


if __name__ == "__main__":
    sys.exit(typer.run(main))
