"""Runs a phase of the training: fit, keep the best epoch, re-estimate BatchNorm, keep the better of the two."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..runtime.console import progress, status
from ..runtime.errors import RunError
from ..runtime.spec import ModelSpec
from .batches import Batches, KeptFrames, TrainingBatches
from .batchnorm import moving_statistics, reestimate, restore_statistics, trained_norms
from .callbacks import EpochLog, History, PhaseState, ProgressBar
from .data import LabelledImage
from .evaluation import Evaluation, evaluate
from .features import Features, FeatureStore
from .model import KerasModel, build_head_model
from .model_file import load_model, load_weights, save_model, weights_sha256
from .run_folder import RunFolder
from .settings import PhaseSettings, TrainSettings

__all__ = ["Training", "run_phase"]


@dataclass
class Training:
    """A training under way: its settings, its images, its model, and where it stands."""

    run: RunFolder
    settings: TrainSettings
    spec: ModelSpec
    train: list[LabelledImage]
    validation: list[LabelledImage]
    model: KerasModel
    state: PhaseState
    kept: KeptFrames = field(default_factory=KeptFrames)


@dataclass
class _Fit:
    """A phase ready to run: its batches and the model that trains, all of it or the part behind a frozen CNN."""

    number: int
    phase: PhaseSettings
    model: KerasModel
    training: Callable[..., TrainingBatches]
    validation: Batches
    steps: int


def run_phase(training: Training, number: int) -> None:
    """Run phase ``number`` from where ``training.state`` stands, and save its result as ``checkpoints/phaseN.keras``.

    Afterwards ``training.model`` holds the phase's result and ``training.state`` points at the next phase.

    Raises:
        RunError: no epoch of the first phase had a finite loss, or a file that --resume needs is damaged.
    """
    phase = training.settings.phases[number - 1]
    if phase.epochs:
        fit = _prepare(training, number, phase)
        _fit(training, fit)
        if training.state.best_epoch:
            training.state.results.append(_settle(training, fit))
        else:
            _go_back(training, number)
    save_model(training.model, training.spec, training.run.checkpoints / f"phase{number}.keras")
    state = training.state
    old, state.weights = state.weights, ""
    state.phase, state.epoch, state.best, state.best_epoch = number + 1, 0, None, 0
    training.run.write_json(training.run.state, vars(state))
    if old:
        (training.run.checkpoints / old).unlink(missing_ok=True)


def _prepare(training: Training, number: int, phase: PhaseSettings) -> _Fit:
    settings, spec, model = training.settings, training.spec, training.model
    train_features = validation_features = None
    frozen = phase.freeze_cnn and spec.uses_cnn
    if spec.uses_cnn:
        model.get_layer("cnn").trainable = not frozen
    if frozen and settings.feature_cache and not settings.augment:
        train_features, validation_features = _frozen_features(training)
        model = build_head_model(model, spec)
    steps = phase.steps or math.ceil(len(training.train) / phase.batch_size)

    def batches(first: int = 0, augmented: bool = settings.augment) -> TrainingBatches:
        return TrainingBatches(
            training.train,
            spec,
            phase.batch_size,
            seed=settings.seed * 10 + number,
            first=first,
            augmented=augmented,
            workers=settings.workers,
            features=train_features,
            kept=training.kept,
        )

    validation = Batches(
        training.validation,
        spec,
        phase.batch_size,
        workers=settings.workers,
        features=validation_features,
        kept=training.kept,
    )
    _compile(model, phase, spec, steps)
    return _Fit(number, phase, model, batches, validation, steps)


def _frozen_features(training: Training) -> tuple[Features, Features]:
    """Get the frozen CNN's features of training and validation images; only those the store lacks are computed."""
    cnn = training.model.get_layer("cnn")
    digest = weights_sha256(cnn)
    if training.state.cnn_sha256 not in ("", digest):
        raise RunError(
            f"the frozen CNN of run {training.run.name} had weights {training.state.cnn_sha256[:12]}, now they are "
            f"{digest[:12]}: the file behind --weights changed; start a new run"
        )
    training.state.cnn_sha256 = digest
    store = FeatureStore(digest, training.spec, int(cnn.output_shape[-1]), precision=cnn.dtype_policy.name)
    started = time.perf_counter()
    images = [*training.train, *training.validation]
    features, computed = store.features(images, lambda image: np.asarray(cnn.predict_on_batch(image), np.float32))
    status.print(
        f"features of the frozen CNN: {computed} computed, {len(images) - computed} from {store.folder} "
        f"({time.perf_counter() - started:.1f} s)",
        markup=False,
        soft_wrap=True,
    )
    split = len(training.train)
    return Features(features.table, features.index[:split]), Features(features.table, features.index[split:])


def _compile(model: KerasModel, phase: PhaseSettings, spec: ModelSpec, steps: int) -> None:
    rate: Any = phase.learning_rate
    if phase.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, phase.epochs * steps)
    makers = {
        "rmsprop": keras.optimizers.RMSprop,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    }
    model.compile(
        optimizer=makers[phase.optimizer](rate),
        loss="categorical_crossentropy",
        metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.TopKCategoricalAccuracy(k=min(5, spec.num_classes), name="top5"),
        ],
        jit_compile=False,  # XLA made a step of the reduced hybrid six times slower on a CPU (8 s against 1.3 s)
    )


def _fit(training: Training, fit: _Fit) -> None:
    run, state = training.run, training.state
    # variables that are first made inside the training step would have it traced twice: 15 s with Xception
    fit.model.optimizer.build(fit.model.trainable_variables)
    if state.epoch:
        _load_checkpoint(fit.model, run.checkpoints / state.weights)
    bar = ProgressBar(f"phase {fit.number}", fit.phase.epochs, fit.steps, fit.validation.num_batches or 0)
    log = EpochLog(
        run,
        state,
        fit.phase,
        History.load(run, fit.number, state.epoch),
        save_best=lambda path: save_model(training.model, training.spec, path),
        clock=_lap_timer(),
    )
    batches = fit.training(first=state.epoch * fit.steps)
    try:
        fit.model.fit(
            batches,
            epochs=fit.phase.epochs,
            initial_epoch=state.epoch,
            steps_per_epoch=fit.steps,
            validation_data=fit.validation,
            callbacks=[
                bar,
                log,
                keras.callbacks.TensorBoard(run.tensorboard / f"phase{fit.number}", write_graph=False),
            ],
            verbose=0,
            shuffle=False,
        )
    except Exception as error:
        if fault := batches.fault or fit.validation.fault:
            raise fault from error
        raise
    finally:
        bar.close()


def _load_checkpoint(model: KerasModel, path: Path) -> None:
    try:
        load_weights(model, path)
    except Exception as error:  # h5py and Keras raise a dozen unrelated types on missing or damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{path} is missing or damaged ({reason}), the run can't go on; start a new one") from error


def _lap_timer() -> Callable[[], float]:
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    return lap


@dataclass
class _Candidate:
    """Weights that could be the phase's result, what they measured, and the call that restores them."""

    name: str
    evaluation: Evaluation
    restore: Callable[[], object]

    def record(self) -> dict[str, Any]:
        measured = self.evaluation
        return {"weights": self.name, "loss": measured.loss, "top1": measured.top(1), "top5": measured.top(5)}


def _settle(training: Training, fit: _Fit) -> dict[str, Any]:
    """Leave the phase's best weights in the model, the best or the last epoch's, and return the phase's record."""
    state = training.state
    best = training.run.checkpoints / f"phase{fit.number}-best.keras"
    last = training.run.checkpoints / f"phase{fit.number}-last.keras"
    candidates = []
    norms = trained_norms(fit.model) if training.settings.bn_batches else []
    if norms and state.best_epoch != state.epoch:
        candidates.append(_reestimated(training, fit, "last epoch"))
        save_model(training.model, training.spec, last)
        candidates[-1].restore = lambda: load_model(last, into=training.model)
        if not math.isfinite(candidates[-1].evaluation.loss):
            candidates.clear()
    load_model(best, into=training.model)
    candidates.append(_candidate(fit, "best epoch"))
    if norms:
        candidates.append(_reestimated(training, fit, "best epoch"))
    chosen = min(candidates, key=lambda candidate: _cost(candidate, fit.phase))
    for candidate in candidates:
        mark = " <- kept" if candidate is chosen and len(candidates) > 1 else ""
        values = candidate.record()
        status.print(
            f"phase {fit.number}, {values['weights']}: loss {values['loss']:.3f} top-1 {values['top1']:.1%} "
            f"top-5 {values['top5']:.1%}{mark}",
            soft_wrap=True,
        )
    if chosen is not candidates[-1]:
        chosen.restore()
    last.unlink(missing_ok=True)
    return {
        "phase": fit.number,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "kept": chosen.name,
        "candidates": [candidate.record() for candidate in candidates],
    }


def _go_back(training: Training, number: int) -> None:
    """Go back to the result of the phase before, after a phase in which no epoch had a finite loss."""
    fault = f"phase {number}: no epoch had a finite loss"
    if not training.state.results:
        rate = training.settings.phases[number - 1].learning_rate
        remedy = f"start a new run with a smaller --phase{number}-lr than {rate:g}"
        half = training.settings.mixed_precision != "off"
        raise RunError(f"{fault}; {remedy}{', or without --mixed-precision' if half else ''}")
    status.print(f"{fault}: the weights of the phase before it are kept", style="yellow")
    load_model(training.run.checkpoints / f"phase{number - 1}.keras", into=training.model)


def _cost(candidate: _Candidate, phase: PhaseSettings) -> tuple[float, float]:
    value = candidate.evaluation.value(phase.monitor)
    return (-value if phase.higher_is_better else value, candidate.evaluation.loss)


def _candidate(fit: _Fit, name: str) -> _Candidate:
    statistics = moving_statistics(fit.model)
    evaluation = evaluate(fit.model, fit.validation, f"validation, {name}")
    return _Candidate(name, evaluation, lambda: restore_statistics(fit.model, statistics))


def _reestimated(training: Training, fit: _Fit, name: str) -> _Candidate:
    settings = training.settings
    stream = fit.training(augmented=False)
    with progress(unit="batches", transient=True) as bar:
        task = bar.add_task(f"BatchNorm statistics, {name}", total=settings.bn_batches)
        inputs = (stream[index][0] for index in range(settings.bn_batches))
        reestimate(fit.model, bar.track(inputs, task_id=task), settings.bn_momentum)
    return _candidate(fit, f"{name}, BatchNorm re-estimated")
