"""A training keeps its place in the run folder after every epoch, so that --resume can go on after a kill.

The run folder gets a row of history, the best weights where the epoch was the best, the weights to go on from with
their optimizer, and last the state, which names those weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from ..runtime.console import say
from ..runtime.errors import DataError, RunError, UsageError
from ..runtime.spec import ModelSpec
from ..runtime.storage import replacing, sweep, write_json
from .batches import KeptFrames
from .changed_data import record_contents, refuse_changed
from .data import DataSet, LabelledImage, calibration_sample, read_list, write_list
from .model import KerasModel
from .model_file import save_model, save_weights
from .run_folder import RunFolder
from .training_settings import TrainSettings

CALIBRATION_IMAGES = 500


@dataclass(frozen=True)
class Training:
    """What a training is from its start to its end: its folder, its settings and its images."""

    run: RunFolder
    settings: TrainSettings
    spec: ModelSpec
    train: list[LabelledImage]
    validation: list[LabelledImage]
    kept: KeptFrames = field(default_factory=KeptFrames)


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands, as ``state.json`` records it.

    ``phase`` and ``epoch`` count from 1; epoch 0 means that the phase has not finished an epoch. ``weights`` names the
    checkpoint to go on from, and ``results`` holds what each finished phase measured.
    """

    phase: int = 1
    epoch: int = 0
    best: float | None = None
    best_epoch: int = 0
    weights: str = ""
    cnn_sha256: str = ""
    seconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)

    def write(self, run: RunFolder, before: TrainingState) -> None:
        """Replace ``state.json``, then remove the weights that only the state ``before`` needed."""
        write_json(run.state, vars(self))
        if before.weights not in ("", self.weights):
            (run.checkpoints / before.weights).unlink(missing_ok=True)


class EpochRecorder(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Records each epoch at its end, and holds the state that it recorded last.

    A kill between two of its writes leaves a run that --resume can continue, as the state is replaced last. ``whole``
    is the model that is kept where an epoch is the best; what is fitted may be its part behind a frozen CNN.
    """

    def __init__(self, training: Training, whole: KerasModel, state: TrainingState) -> None:
        super().__init__()
        self.training = training
        self.whole = whole
        self.state = state
        self._phase = training.settings.phases[state.phase - 1]
        # a later row is of an epoch that was not recorded to its end, and which is repeated now
        rows = training.run.read_history()
        self._history = [row for row in rows if (row["phase"], row["epoch"]) <= (state.phase, state.epoch)]
        self._recorded_at = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record the epoch, and end the phase if its loss is not finite."""
        values = {key: float(value) for key, value in (logs or {}).items()}
        run, number = self.training.run, self.state.phase
        began, self._recorded_at = self._recorded_at, time.perf_counter()
        seconds = self._recorded_at - began
        self._history.append({**values, "phase": number, "epoch": epoch + 1, "seconds": seconds})
        run.write_history(self._history)
        state = replace(self.state, epoch=epoch + 1, seconds=self.state.seconds + seconds)
        healthy = math.isfinite(values["loss"]) and math.isfinite(values["val_loss"])  # a NaN loss has an accuracy too
        monitored = values[self._phase.monitor]
        if healthy and self._phase.improves(monitored, state.best):
            save_model(self.whole, self.training.spec, run.checkpoint(number, "best"))
            state = replace(state, best=monitored, best_epoch=epoch + 1)
        self._write(replace(state, weights=f"phase{number}-epoch{epoch + 1}.weights.h5"))
        if not math.isfinite(values["loss"]):
            say(f"the loss is {values['loss']}: phase {number} ends here", "yellow")
            self.model.stop_training = True

    def _write(self, state: TrainingState) -> None:
        run = self.training.run
        with replacing(run.checkpoints / state.weights, suffix=".weights.h5") as partial:
            save_weights(self.model, partial)
        before, self.state = self.state, state
        state.write(run, before)


def record_start(run: RunFolder, settings: TrainSettings, spec: ModelSpec, data: DataSet) -> Training:
    """Write what a training is into its new run folder; ``state.json`` comes last, as --resume refuses without it."""
    run.checkpoints.mkdir(exist_ok=True)
    write_json(run.settings, settings.model_dump())
    write_json(run.spec, spec.model_dump())
    write_list(run.images("train"), data.train)
    write_list(run.images("validation"), data.validation)
    record_contents(run, data)
    write_list(run.images("calibration"), calibration_sample(data.train, CALIBRATION_IMAGES, settings.seed))
    skipped = [{"path": str(path), "reason": reason} for path, reason in data.skipped.items()]
    write_json(run.path / "skipped.json", skipped)
    write_json(run.state, vars(TrainingState()))
    return Training(run, settings, spec, list(data.train), list(data.validation))


def read_stopped(run: RunFolder) -> tuple[Training, TrainingState]:
    """Read what a stopped training left, and remove files that a kill left unfinished or without use."""
    settings = _read_record(run, run.settings, TrainSettings.make)
    spec = _read_record(run, run.spec, ModelSpec.make)
    state = _read_record(run, run.state, TrainingState)
    try:
        train, validation = (read_list(run.images(kind)) for kind in ("train", "validation"))
    except DataError as error:
        raise RunError(f"{error}; it is not a complete run: start a new one with hybrid-train DATA") from None
    phases_left = state.phase <= len(settings.phases)  # else only the final validation is left
    refuse_changed(run, settings, train if phases_left else [], validation)
    for name in ("model.keras", "*.json", "*.csv", "*.png"):
        sweep(run.path, name)
    sweep(run.checkpoints, "*")
    for weights in run.checkpoints.glob("phase*-epoch*.weights.h5"):
        if weights.name != state.weights:
            weights.unlink()
    return Training(run, settings, spec, train, validation), state


def _read_record(run: RunFolder, path: Path, make: Any) -> Any:
    content = run.read_json(path)
    try:
        return make(**content)
    except (TypeError, UsageError) as error:
        raise RunError(f"{path} is damaged, or of another version of hybrid-edge: {error}; start a new run") from None
