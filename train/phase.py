"""One phase of a training is prepared, which decides what trains and on which batches, and fitted epoch by epoch."""

from __future__ import annotations

import errno
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import keras
from rich.progress import TextColumn

from ..runtime.console import progress, say
from ..runtime.errors import RunError
from ..runtime.spec import ModelSpec
from .batches import Batches, TrainingBatches
from .checkpoints import EpochRecorder, Training, TrainingState
from .data import balanced_weights
from .devices import as_stream, predict, scaled_optimizer, several, train_alike
from .evaluation import evaluate
from .features import Features, FeatureStore
from .model import KerasModel, build_head_model
from .model_file import first_line, load_weights, weights_sha256
from .training_settings import Monitor, PhaseSettings

OPTIMIZERS = {
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
}


@dataclass(frozen=True)
class PreparedPhase:
    """A phase that is ready to be fitted.

    ``fitted`` is the model that trains: ``whole``, or the part of it behind a frozen CNN, on that CNN's features.
    ``state`` is where the phase begins, or goes on after an interruption.
    """

    training: Training
    settings: PhaseSettings
    state: TrainingState
    whole: KerasModel
    fitted: KerasModel
    steps: int
    features: Features | None
    validation: Batches

    def training_batches(self, *, first: int = 0, augmented: bool | None = None) -> TrainingBatches:
        """Make the stream of training batches from number ``first`` on, varied as the training's settings say."""
        settings = self.training.settings
        return TrainingBatches(
            self.training.train,
            self.training.spec,
            self.settings.batch_size,
            seed=settings.seed * 10 + self.state.phase,
            first=first,
            augmented=settings.augment if augmented is None else augmented,
            workers=settings.workers,
            features=self.features,
            kept=self.training.kept,
        )


def prepare_phase(training: Training, model: KerasModel, state: TrainingState) -> PreparedPhase:
    """Prepare the phase at which ``state`` stands: freeze or unfreeze the model's CNN, and compile what trains."""
    settings, spec = training.settings, training.spec
    phase = settings.phases[state.phase - 1]
    frozen = phase.freeze_cnn and spec.uses_cnn
    if spec.uses_cnn:
        model.get_layer("cnn").trainable = not frozen
    fitted, train_features, validation_features = model, None, None
    if frozen and settings.feature_cache and not settings.augment:
        cnn = model.get_layer("cnn")
        state = _with_cnn(training.run.name, cnn, state)
        train_features, validation_features = frozen_features(training, cnn, state.cnn_sha256)
        fitted = build_head_model(model, spec)
    steps = phase.steps or math.ceil(len(training.train) / phase.batch_size)
    validation = Batches(
        training.validation,
        spec,
        phase.batch_size,
        workers=settings.workers,
        features=validation_features,
        kept=training.kept,
    )
    _compile(fitted, phase, spec, steps)
    train_alike(fitted)
    return PreparedPhase(training, phase, state, model, fitted, steps, train_features, validation)


def _with_cnn(run: str, cnn: KerasModel, state: TrainingState) -> TrainingState:
    """Note the frozen CNN's weights in the state; refuse others than those that a resumed run began with."""
    digest = weights_sha256(cnn)
    if state.cnn_sha256 not in ("", digest):
        raise RunError(
            f"the frozen CNN of run {run} had weights {state.cnn_sha256[:12]}, now they are "
            f"{digest[:12]}: the file behind --weights changed; start a new run"
        )
    return replace(state, cnn_sha256=digest)


def frozen_features(training: Training, cnn: KerasModel, cnn_sha256: str) -> tuple[Features, Features]:
    """Get the frozen CNN's features of training and validation images; only those the store lacks are computed."""
    store = FeatureStore(cnn_sha256, training.spec, int(cnn.output_shape[-1]), cnn.dtype_policy.name)
    started = time.perf_counter()
    images = [*training.train, *training.validation]
    features, computed = store.features(images, lambda image: predict(cnn, image))
    say(
        f"features of the frozen CNN: {computed} computed, {len(images) - computed} from {store.folder} "
        f"({time.perf_counter() - started:.1f} s)",
        "",
    )
    split = len(training.train)
    return Features(features.table, features.index[:split]), Features(features.table, features.index[split:])


def _compile(model: KerasModel, phase: PhaseSettings, spec: ModelSpec, steps: int) -> None:
    rate: Any = phase.learning_rate
    if phase.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, phase.epochs * steps)
    model.compile(
        optimizer=scaled_optimizer(OPTIMIZERS[phase.optimizer](rate)),
        loss="categorical_crossentropy",
        metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.TopKCategoricalAccuracy(k=min(5, spec.num_classes), name="top5"),
        ],
        jit_compile=False,  # XLA made a step of the reduced hybrid six times slower on a CPU (8 s against 1.3 s)
    )


def fit_phase(prepared: PreparedPhase) -> TrainingState:
    """Fit a phase from the epoch at which its state stands to its last one; return where it stands then."""
    training, model, state = prepared.training, prepared.fitted, prepared.state
    # variables that are first made inside the training step would have it traced twice: 15 s with Xception
    model.optimizer.build(model.trainable_variables)
    if state.epoch:
        _load_checkpoint(model, training.run.checkpoints / state.weights)
    name = f"phase {state.phase}"
    bar = ProgressBar(name, prepared.settings.epochs, prepared.steps, prepared.validation.num_batches or 0)
    recorder = EpochRecorder(training, prepared.whole, state)
    tensorboard = keras.callbacks.TensorBoard(training.run.tensorboard / f"phase{state.phase}", write_graph=False)
    batches = prepared.training_batches(first=state.epoch * prepared.steps)
    try:
        model.fit(
            as_stream(batches),
            epochs=prepared.settings.epochs,
            initial_epoch=state.epoch,
            steps_per_epoch=prepared.steps,
            validation_data=None if several() else prepared.validation,
            class_weight=_class_weights(training),
            callbacks=[*([SplitValidation(bar, prepared.validation)] if several() else []), bar, recorder, tensorboard],
            verbose=0,
            shuffle=False,
        )
    except Exception as error:
        if fault := batches.fault or prepared.validation.fault:
            raise fault from error
        if not isinstance(error, OSError) and os.strerror(errno.ENOSPC) in str(
            error
        ):  # TensorFlow's own error, of TensorBoard's files
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(training.run.tensorboard)) from error
        raise
    finally:
        bar.close()
    return recorder.state


def _class_weights(training: Training) -> dict[int, float] | None:
    if training.settings.class_weights == "none":
        return None
    weights = balanced_weights(training.train)
    return {number: weights[label] for number, label in enumerate(training.spec.class_labels)}


def _load_checkpoint(model: KerasModel, path: Path) -> None:
    try:
        load_weights(model, path)
    except Exception as error:  # h5py and Keras raise a dozen unrelated types on missing or damaged files
        raise RunError(
            f"{path} is missing or damaged ({first_line(error)}), the run can't go on; start a new one"
        ) from error


class ProgressBar(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Shows a bar for each epoch and its validation, with loss, top-1 and top-5, then prints a line of all numbers."""

    def __init__(self, title: str, epochs: int, steps: int, validation_steps: int) -> None:
        super().__init__()
        self.title = title
        self.epochs = epochs
        self.steps = steps
        self.validation_steps = validation_steps
        self._bar = progress(TextColumn("{task.fields[numbers]}"), transient=True)
        self._task = self._bar.add_task(title, numbers="")
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Show the epoch's bar."""
        self._began = time.perf_counter()
        self._show(f"{self.title} epoch {epoch + 1}/{self.epochs}", self.steps)
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Advance the bar, and show the running means."""
        self._bar.update(self._task, completed=batch + 1, numbers=_numbers(logs or {}, ""))

    on_test_batch_end = on_train_batch_end

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Turn the bar into that of the epoch's validation, which can take as long as its training."""
        self._show("validation", self.validation_steps)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Close the bar and print the epoch's line."""
        self.close()
        logs = logs or {}
        seconds = time.perf_counter() - self._began
        left = self.epochs - epoch - 1
        say(
            f"{self.title} epoch {epoch + 1}/{self.epochs}: {_numbers(logs, '')} | "
            f"validation: {_numbers(logs, 'val_')} | {_duration(seconds)}"
            + (f", about {_duration(seconds * left)} left in this phase" if left else ""),
            "",
        )

    def close(self) -> None:
        """Stop drawing the bar; this is called after an interrupted epoch too."""
        self._bar.stop()

    def _show(self, description: str, total: int) -> None:
        self._bar.reset(self._task, total=total, description=description, numbers="")


class SplitValidation(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Validates on several devices, in place of ``fit``, which can't split a batch of a size that is no multiple."""

    def __init__(self, bar: ProgressBar, validation: Batches) -> None:
        super().__init__()
        self._bar = bar
        self._validation = validation

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Add the validation's numbers to the epoch's, which the callbacks behind this one see."""
        self._bar.close()
        measured = evaluate(self.model, self._validation)
        logs |= {name: measured.value(name) for name in get_args(Monitor)}


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _numbers(logs: dict[str, float], prefix: str) -> str:
    shown = (("loss", "loss", ".3f"), ("accuracy", "top-1", ".1%"), ("top5", "top-5", ".1%"))
    return " ".join(f"{name} {logs[prefix + key]:{form}}" for key, name, form in shown if prefix + key in logs)
