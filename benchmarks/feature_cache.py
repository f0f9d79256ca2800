"""Phase 1 behind a frozen CNN: its features read from the cache against computing them again in every step.

Both are prepared by the training's own code (``train.phase``) on one model, and stepped in turn. A step here is reading
the batch and training on it, one after the other; inside ``hybrid-train`` reading overlaps with computing, both ways.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from interleave import RESULTS, Report, interleave
from photographs import write_crops

from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.data import DataSet, scan
from hybrid_edge.train.tensorflow_import import import_tensorflow
from hybrid_edge.train.training_settings import PHASES, TrainSettings

CROPS, CLASSES = 240, 100
SIZES = {
    "reference": (ModelSpec(), 8),
    "reduced": (ModelSpec(image_size=71, timesteps=71, rnn_units=128), 20),
}
Size = Annotated[list[str] | None, typer.Option(help=f"of {', '.join(SIZES)}; default: all")]


@dataclass(frozen=True)
class Prepared:
    """The two ways to train phase 1, and what filling the cache cost."""

    steps: dict[str, Callable[[], float | None]]
    seconds_an_image: float
    images: int
    batch_size: int


def main(size: Size = None, data: Path | None = None, rounds: int | None = None, out: Path = RESULTS) -> None:
    """Measure each size; DATA is a folder of class folders, by default crops of photographs."""
    import_tensorflow()
    packages = ("hybrid-edge", "tensorflow", "keras", "numpy", "opencv-python")
    report = Report("feature_cache", packages)
    with tempfile.TemporaryDirectory() as folder:
        images = scan(data or write_crops(Path(folder) / "crops", CROPS, CLASSES))
        for name in size or SIZES:
            spec, own_rounds = SIZES[name]
            spec = spec.replace(class_labels=images.labels)
            os.environ["HYBRID_EDGE_CACHE"] = str(Path(folder) / name)  # empty: the cost of filling it is measured
            measure(report, name, spec, images, rounds or own_rounds)
    report.save(out)


def measure(report: Report, name: str, spec: ModelSpec, images: DataSet, rounds: int) -> None:
    """Time both ways at one size, and say what an epoch of the reference training costs either way."""
    prepared = prepare(spec, images)
    timings = interleave(prepared.steps, rounds=rounds, warm_up=2)
    cached, again = (float(np.median(timings[way])) for way in ("cached", "computed again"))
    steps = PHASES["xception-lstm"][0].steps
    report.add(
        f"{name}: a step of {prepared.batch_size} images at {spec.image_size}x{spec.image_size}, "
        f"{spec.timesteps} timesteps, {spec.rnn_layers} LSTM({spec.rnn_units})",
        timings,
        "cached",
        unit="s",
        filling_the_cache_ms_an_image=round(prepared.seconds_an_image * 1e3, 1),
        filled_with_images=prepared.images,
        steps_an_epoch=steps,
        epoch_s_cached=round(steps * cached, 1),
        epoch_s_computed_again=round(steps * again, 1),
        epoch_ratio=round(again / cached, 2),
    )


def prepare(spec: ModelSpec, images: DataSet) -> Prepared:
    """Phase 1 prepared twice by the trainer's own code, on one model with random weights."""
    import keras

    from hybrid_edge.train.checkpoints import Training, TrainingState
    from hybrid_edge.train.model import build_model
    from hybrid_edge.train.model_file import weights_sha256
    from hybrid_edge.train.phase import frozen_features, prepare_phase
    from hybrid_edge.train.run_folder import RunFolder

    keras.utils.set_random_seed(0)
    model = build_model(spec)

    def training(feature_cache: bool) -> Training:
        phases = PHASES["xception-lstm"]
        settings = TrainSettings.make(data="crops", spec=spec, phases=phases, feature_cache=feature_cache)
        lists = list(images.train), list(images.validation)
        return Training(RunFolder(Path("none")), settings, spec, *lists)

    cnn = model.get_layer("cnn")
    cnn.trainable = False
    cnn.predict_on_batch(np.zeros((16, *spec.image_shape), np.float32))  # what tracing costs is paid here
    started = time.perf_counter()
    frozen_features(training(feature_cache=True), cnn, weights_sha256(cnn))
    seconds = time.perf_counter() - started
    phases = {
        "cached": prepare_phase(training(feature_cache=True), model, TrainingState()),
        "computed again": prepare_phase(training(feature_cache=False), model, TrainingState()),
    }
    total = len(images.train) + len(images.validation)
    steps = {name: _step(one.fitted, one.training_batches(), count()) for name, one in phases.items()}
    return Prepared(steps, seconds / total, total, phases["cached"].settings.batch_size)


def _step(model: Any, stream: Any, numbers: Iterator[int]) -> Callable[[], None]:
    def step() -> None:
        model.train_on_batch(*stream[next(numbers)])

    return step


if __name__ == "__main__":
    sys.exit(typer.run(main))
