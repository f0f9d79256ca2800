"""The second phase of ``hybrid-train`` against a plain Keras loop on the same folder: images a second.

The plain loop is what Keras's documentation shows: ``image_dataset_from_directory``, a ``map`` that scales,
``prefetch`` and ``model.fit``. Both train a model of their own with the same weights, optimizer, loss and metrics, in
one process, in turn; ours through the trainer's own code, with its bar and its TensorBoard log. What is timed is from
the end of the first step to the end of the last: tracing, filling of queues and validation are outside, for both.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from interleave import RESULTS, Report, interleave
from photographs import write_crops

from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.data import DataSet, scan
from hybrid_edge.train.tensorflow_import import import_tensorflow
from hybrid_edge.train.training_settings import PHASES, PhaseSettings, TrainSettings

CROPS, CLASSES = 600, 10
OURS, PLAIN, DEFAULTS = "hybrid-train", "plain Keras", "plain Keras, jit_compile as it is by default"


@dataclass(frozen=True)
class Setting:
    """A preset's model, its batch, how many steps make one visit, and hybrid-train's options that are not as usual."""

    preset: str
    spec: ModelSpec
    batch: int
    steps: int
    write: Callable[[Path], Path]
    options: str = ""


def _photographs(folder: Path) -> Path:
    """JPEGs of some 300 x 300 pixels."""
    return write_crops(folder, CROPS, CLASSES)


def _large_photographs(folder: Path) -> Path:
    """JPEGs of 1200 x 1200 pixels."""
    return write_crops(folder, CROPS, CLASSES, pixels=1200)


def _digits(folder: Path) -> Path:
    """scikit-learn's digits as hybrid-prepare writes them: PNGs of 28 x 28."""
    from hybrid_edge.train.handwritten_digits import prepare_digits

    prepare_digits(folder)
    return folder / "train"


SIZES = {
    "reduced": Setting("xception-lstm", ModelSpec(image_size=71, timesteps=71, rnn_units=128), 16, 9, _photographs),
    # the preset varies the images while it trains; Keras's loop does not, and so neither of them here
    "digits": Setting("digits", preset("digits"), 64, 60, _digits, " --no-augment"),
    # reading takes longer than learning: ours keeps large photographs at the model's size from one epoch to the next
    "large-photographs": Setting("digits", preset("digits"), 64, 20, _large_photographs, " --no-augment"),
}
Size = Annotated[list[str] | None, typer.Option(help=f"of {', '.join(SIZES)}; default: all")]


def main(
    size: Size = None,
    data: Path | None = None,
    rounds: int = 9,
    defaults: Annotated[bool, typer.Option(help="Also with XLA, Keras's default: slow to compile.")] = False,
    out: Path = RESULTS,
) -> None:
    """Measure; DATA is a folder of class folders, by default crops of photographs, and digits."""
    import_tensorflow()
    report = Report("training_loop", ("hybrid-edge", "tensorflow", "keras", "numpy", "opencv-python"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in size or SIZES:
            setting = SIZES[name]
            root = data or setting.write(folder / name)
            images = scan(root, val_fraction=0.1)
            cases = {OURS: _ours(setting, images, folder), PLAIN: _plain(setting, images, root, jit_compile=False)}
            if defaults:
                cases[DEFAULTS] = _plain(setting, images, root, jit_compile="auto")
            timings = interleave(cases, rounds=rounds)
            speeds = {way: round(setting.batch / float(np.median(times)), 1) for way, times in timings.items()}
            report.add(
                title(name, setting),
                timings,
                PLAIN,
                images_a_second=speeds,
                not_slower=speeds[OURS] >= speeds[PLAIN],
            )
    report.save(out)


def title(name: str, setting: Setting) -> str:
    """Of a case's table."""
    side = setting.spec.image_size
    return (
        f"{name}{setting.options}: a step of {setting.batch} images at {side}x{side}, all layers, Adam; visits of "
        f"{setting.steps} steps"
    )


def _phase(setting: Setting) -> PhaseSettings:
    second = PHASES[setting.preset][1]
    return second.model_copy(update={"batch_size": setting.batch, "steps": setting.steps, "epochs": 1})


def _model(spec: ModelSpec) -> Any:
    import keras

    from hybrid_edge.train.model import build_model

    keras.utils.set_random_seed(0)
    return build_model(spec)


def _ours(setting: Setting, images: DataSet, folder: Path) -> Callable[[], float]:
    """Seconds a step of phase 2, prepared by the trainer."""
    import keras

    from hybrid_edge.train.checkpoints import Training, TrainingState
    from hybrid_edge.train.phase import ProgressBar, prepare_phase
    from hybrid_edge.train.run_folder import RunFolder

    spec = setting.spec.replace(class_labels=images.labels)
    settings = TrainSettings.make(data="crops", spec=spec, phases=(_phase(setting), _phase(setting)), augment=False)
    lists = list(images.train), list(images.validation)
    training = Training(RunFolder(Path("none")), settings, spec, *lists)
    prepared = prepare_phase(training, _model(spec), TrainingState(phase=2))
    model = prepared.fitted
    model.optimizer.build(model.trainable_variables)

    def case() -> float:
        clock = _clock()
        bar = ProgressBar("phase 2", 1, prepared.steps, 0)
        log = keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)
        options: dict[str, Any] = {"steps_per_epoch": prepared.steps, "verbose": 0, "shuffle": False}
        model.fit(prepared.training_batches(), callbacks=[bar, log, clock], **options)
        bar.close()
        return clock.seconds_a_step

    return case


def _plain(setting: Setting, images: DataSet, root: Path, *, jit_compile: Any) -> Callable[[], float]:
    """Seconds a step of Keras's own loader and loop."""
    import keras
    import tensorflow as tf

    side = setting.spec.image_size
    data = keras.utils.image_dataset_from_directory(
        root, label_mode="categorical", batch_size=setting.batch, image_size=(side, side), verbose=False
    )
    data = data.map(lambda image, label: (image / 127.5 - 1, label), num_parallel_calls=tf.data.AUTOTUNE)
    data = data.repeat().prefetch(tf.data.AUTOTUNE)
    model = _model(setting.spec.replace(class_labels=images.labels))
    phase = _phase(setting)
    model.compile(
        keras.optimizers.Adam(phase.learning_rate),
        "categorical_crossentropy",
        metrics=[keras.metrics.CategoricalAccuracy(), keras.metrics.TopKCategoricalAccuracy(k=5)],
        jit_compile=jit_compile,
    )

    def case() -> float:
        clock = _clock()
        model.fit(data, steps_per_epoch=setting.steps, verbose=0, callbacks=[clock])
        return clock.seconds_a_step

    return case


def _clock() -> Any:
    """A callback that times from the end of the first step to the end of the last."""
    import keras

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002  # Keras fixes them
            self.ends.append(time.perf_counter())

        @property
        def seconds_a_step(self) -> float:
            return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

    return Clock()


if __name__ == "__main__":
    sys.exit(typer.run(main))
