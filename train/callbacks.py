"""After a phase's batches and epochs callbacks keep progress, history, best checkpoint and the state for --resume."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
from rich.progress import Progress, TaskID, TextColumn

from ..runtime.console import progress, status
from ..runtime.storage import replacing, write_text
from .run_folder import RunFolder
from .settings import PhaseSettings

__all__ = ["EpochLog", "History", "PhaseState", "ProgressBar"]

COLUMNS = ("phase", "epoch", "loss", "accuracy", "top5", "val_loss", "val_accuracy", "val_top5", "seconds")


@dataclass
class History:
    """The rows of ``history.csv``, one for each epoch; the file is rewritten whole after each epoch."""

    run: RunFolder
    rows: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def load(cls, run: RunFolder, phase: int, epoch: int) -> History:
        """Read the rows up to and with ``epoch`` of ``phase``; later ones belong to an epoch that --resume repeats."""
        rows: list[dict[str, float]] = []
        if run.history.exists():
            for row in csv.DictReader(io.StringIO(run.history.read_text(encoding="utf-8"))):
                values = {key: float(value) for key, value in row.items()}
                if (values["phase"], values["epoch"]) <= (phase, epoch):
                    rows.append(values)
        return cls(run, rows)

    def add(self, row: dict[str, float]) -> None:
        """Add an epoch's row, with a value for each of ``COLUMNS``, and write the file."""
        self.rows.append({key: row[key] for key in COLUMNS})
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for values in self.rows:
            writer.writerow({key: f"{value:.6g}" for key, value in values.items()})
        write_text(self.run.history, text.getvalue())


@dataclass
class PhaseState:
    """Where a training stands, as ``state.json`` records it.

    ``phase`` and ``epoch`` count from 1; epoch 0 means that the phase has not finished an epoch. ``results`` holds what
    each finished phase measured.
    """

    phase: int = 1
    epoch: int = 0
    best: float | None = None
    best_epoch: int = 0
    weights: str = ""
    cnn_sha256: str = ""
    seconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)

    def better(self, value: float, phase: PhaseSettings) -> bool:
        """Return whether a monitored value beats the best so far; NaN and infinity never do."""
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        return value > self.best if phase.higher_is_better else value < self.best


class ProgressBar(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Shows a bar for each epoch and its validation, with loss, top-1 and top-5, then prints a line of all numbers."""

    def __init__(self, title: str, epochs: int, steps: int, validation_steps: int) -> None:
        super().__init__()
        self.title = title
        self.epochs = epochs
        self.steps = steps
        self.validation_steps = validation_steps
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Open the epoch's bar."""
        self._started = time.perf_counter()
        self._bar = progress(TextColumn("{task.fields[numbers]}"), transient=True)
        self._task = self._bar.add_task(self._name(epoch), total=self.steps, numbers="")
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Advance the bar, and show the running means."""
        if self._bar is not None:
            self._bar.update(self._task, completed=batch + 1, numbers=_numbers(logs or {}, ""))

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Turn the bar into that of the epoch's validation, which can take as long as its training."""
        if self._bar is not None:
            self._bar.reset(self._task, total=self.validation_steps, description="validation", numbers="")

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Advance the validation's bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=batch + 1, numbers=_numbers(logs or {}, ""))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Close the bar and print the epoch's line."""
        self.close()
        logs = logs or {}
        seconds = time.perf_counter() - self._started
        left = self.epochs - epoch - 1
        status.print(
            f"{self._name(epoch)}: {_numbers(logs, '')} | validation: {_numbers(logs, 'val_')} | {_duration(seconds)}"
            + (f", about {_duration(seconds * left)} left in this phase" if left else ""),
            soft_wrap=True,
        )

    def _name(self, epoch: int) -> str:
        return f"{self.title} epoch {epoch + 1}/{self.epochs}"

    def close(self) -> None:
        """Stop drawing the bar; this is called after an interrupted epoch too."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _numbers(logs: dict[str, float], prefix: str) -> str:
    shown = (("loss", "loss", ".3f"), ("accuracy", "top-1", ".1%"), ("top5", "top-5", ".1%"))
    return " ".join(f"{name} {logs[prefix + key]:{form}}" for key, name, form in shown if prefix + key in logs)


class EpochLog(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Writes at each epoch's end a row of history, the best checkpoint if the epoch was the best, and last the state.

    A kill between two of these writes leaves a run that --resume can continue: the state is replaced last and names the
    weights that belong to it.
    """

    def __init__(
        self,
        run: RunFolder,
        state: PhaseState,
        phase: PhaseSettings,
        history: History,
        *,
        save_best: Callable[[Path], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self.run = run
        self.state = state
        self.phase = phase
        self.history = history
        self.save_best = save_best
        self.clock = clock

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record the epoch, and end the phase if its loss is not finite."""
        values = {key: float(value) for key, value in (logs or {}).items()}
        seconds = self.clock()
        self.history.add({**values, "phase": self.state.phase, "epoch": epoch + 1, "seconds": seconds})
        healthy = math.isfinite(values["loss"]) and math.isfinite(values["val_loss"])  # a NaN loss has an accuracy too
        if healthy and self.state.better(values[self.phase.monitor], self.phase):
            self.save_best(self.run.checkpoints / f"phase{self.state.phase}-best.keras")
            self.state.best, self.state.best_epoch = values[self.phase.monitor], epoch + 1
        self.state.epoch = epoch + 1
        self.state.seconds += seconds
        self._save_state()
        if not math.isfinite(values["loss"]):
            status.print(f"the loss is {values['loss']}: phase {self.state.phase} ends here", style="yellow")
            self.model.stop_training = True

    def _save_state(self) -> None:
        old = self.state.weights
        name = f"phase{self.state.phase}-epoch{self.state.epoch}.weights.h5"
        with replacing(self.run.checkpoints / name, suffix=".weights.h5") as partial:
            self.model.save_weights(partial, overwrite=True)
        self.state.weights = name
        self.run.write_json(self.run.state, vars(self.state))
        if old and old != name:
            (self.run.checkpoints / old).unlink(missing_ok=True)
