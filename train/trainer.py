"""Runs a whole training: it checks the data, runs two phases, measures the best weights and fills the run folder."""

from __future__ import annotations

import contextlib
import csv
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from ..runtime.console import status
from ..runtime.errors import DataError, ImageError, RunError
from ..runtime.process import peak_mib
from ..runtime.spec import ModelSpec
from .batches import Batches
from .callbacks import PhaseState
from .data import DataSet, calibration_sample, scan, write_list
from .evaluation import evaluate
from .files import replacing
from .model import KerasModel, build_model
from .model_file import load_model, save_model
from .phase import Training, run_phase
from .plots import plot_class_rates, plot_confusion, plot_curves
from .pretrained import load_pretrained
from .run_folder import RunFolder
from .settings import TrainSettings
from .unfinished import read_unfinished

__all__ = ["resume", "train"]

CALIBRATION_IMAGES = 500
SHOWN = 20


def train(settings: TrainSettings, runs: Path = Path("runs"), name: str | None = None) -> RunFolder:
    """Train a model from images in class folders.

    Args:
        settings: the settings, which say what to train, on what and how.
        runs: the folder of all runs.
        name: the run's name; by default the date, the time and the branches.

    Returns:
        The finished run folder.

    Raises:
        DataError: the data can't be trained on, which is found before any training starts; or an image that was
            readable then is no longer when its batch comes.
        WeightsError: the pretrained weights can't be had.
        RunError: the run folder can't be written, or no epoch had a finite loss.
        KeyboardInterrupt: Ctrl-C is passed on, after the best weights so far were put in place.
    """
    data = scan(Path(settings.data), val_fraction=settings.val_fraction, seed=settings.seed)
    _show_faults(data)
    spec = settings.spec.replace(class_labels=data.labels)
    with _precision(settings):
        model = _fresh_model(settings, spec)
        run = RunFolder.create(runs, name, spec.branches)
        with run.locked(), _named_failures(run):
            _describe(run, settings, spec, data)
            _say(
                f"{run.path}: {len(data.train)} training and {len(data.validation)} validation images of "
                f"{spec.num_classes} classes, {len(data.skipped)} skipped; {model.count_params():,} parameters"
            )
            return _run(Training(run, settings, spec, list(data.train), list(data.validation), model, PhaseState()))


def resume(path: Path | None = None, runs: Path = Path("runs")) -> RunFolder:
    """Continue a training that was killed or interrupted, from the last epoch it finished.

    Args:
        path: the run folder; the newest by default.
        runs: the folder of all runs.

    Raises:
        RunError: there is no run, too little of it to continue, or another process is training in it.
        DataError: images that the run trains on are no longer there.
    """
    run = RunFolder.find(path, runs)
    with run.locked(), _named_failures(run):
        found = read_unfinished(run)
        settings, spec, state = found.settings, found.spec, found.state
        with _precision(settings):
            if state.phase > 1:
                model, _ = load_model(run.checkpoints / f"phase{state.phase - 1}.keras")
            else:
                model = _fresh_model(settings, spec)
            left = settings.phases[state.phase - 1 :]
            where = (
                f"phase {state.phase}, {state.epoch} of {left[0].epochs} epochs done" if left else "after the phases"
            )
            _say(f"{run.path}: continuing, {where}")
            return _run(Training(run, settings, spec, found.train, found.validation, model, state))


def _describe(run: RunFolder, settings: TrainSettings, spec: ModelSpec, data: DataSet) -> None:
    """Write what the training is into the run folder; ``state.json`` comes last, as --resume refuses without it."""
    run.write_json(run.settings, settings.model_dump())
    run.write_json(run.spec, spec.model_dump())
    write_list(run.images("train"), data.train)
    write_list(run.images("validation"), data.validation)
    write_list(run.images("calibration"), calibration_sample(data.train, CALIBRATION_IMAGES, settings.seed))
    skipped = [{"path": str(item.path), "reason": item.reason} for item in data.skipped]
    run.write_json(run.path / "skipped.json", skipped)
    run.write_json(run.state, vars(PhaseState()))


def _say(text: str, style: str = "") -> None:
    """Print a line on stderr, in which brackets of a path are no markup, and which is not broken in a log."""
    status.print(text, style=style, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _named_failures(run: RunFolder) -> Iterator[None]:
    """Turn errors that can come hours after the start into ours, whose messages say how to go on."""
    try:
        yield
    except ImageError as error:
        raise DataError(f"{error}; put it back as it was, then: hybrid-train --resume --name {run.name}") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise RunError(
            f"run {run.path} stopped: {where}{error.strerror or error}; once that is mended: "
            f"hybrid-train --resume --name {run.name}"
        ) from error


def _show_faults(data: DataSet) -> None:
    """Print the warnings and the skipped images; a long list is cut, and the run's ``skipped.json`` has all of it."""
    for warning in data.warnings:
        _say(f"warning: {warning}", "yellow")
    for item in data.skipped[:SHOWN]:
        _say(f"skipped {item.path}: {item.reason}", "yellow")
    if len(data.skipped) > SHOWN:
        _say(f"and {len(data.skipped) - SHOWN} more; all are in the run's skipped.json", "yellow")


@contextlib.contextmanager
def _precision(settings: TrainSettings) -> Iterator[None]:
    """Set Keras's precision for models that are built inside the block, and put the old one back afterwards."""
    before = keras.mixed_precision.global_policy()
    policy = "float32" if settings.mixed_precision == "off" else f"mixed_{settings.mixed_precision}"
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _fresh_model(settings: TrainSettings, spec: ModelSpec) -> KerasModel:
    """Build the starting model, by the seed the same again when a run is resumed before its first checkpoint."""
    keras.utils.set_random_seed(settings.seed)
    model = build_model(spec)
    load_pretrained(model, spec, settings.weights)
    return model


def _run(training: Training) -> RunFolder:
    started = time.perf_counter()
    training.run.checkpoints.mkdir(exist_ok=True)
    try:
        while training.state.phase <= len(training.settings.phases):
            run_phase(training, training.state.phase)
        training.model = _best_phase(training)
        save_model(training.model, training.spec, training.run.model)
        if training.settings.mixed_precision != "off":  # report on the model as it was saved, in float32
            keras.mixed_precision.set_global_policy("float32")
            training.model = load_model(training.run.model)[0]
        _report(training, time.perf_counter() - started)
    except KeyboardInterrupt:
        _keep_best_so_far(training)
        raise
    return training.run


def _best_phase(training: Training) -> KerasModel:
    """Return the model of the phase with the best top-1, the later one of two that are equal."""
    best = max(_measured(training))[1]
    if best == training.state.results[-1]["phase"]:
        return training.model
    _say(f"phase {best} had the better top-1: its weights are the result")
    return load_model(training.run.checkpoints / f"phase{best}.keras", into=training.model)[0]


def _measured(training: Training) -> list[tuple[float, int, str]]:
    """List each finished phase's top-1 on validation, its number and its checkpoint's file name."""
    found = []
    for result in training.state.results:
        kept = next(item for item in result["candidates"] if item["weights"] == result["kept"])
        found.append((kept["top1"], result["phase"], f"phase{result['phase']}.keras"))
    return found


def _best_epoch(training: Training) -> list[tuple[float, int, str]]:
    """List top-1, phase number and checkpoint of the current phase's best epoch; nothing before its first epoch."""
    state = training.state
    if not state.best_epoch:
        return []
    with training.run.history.open(encoding="utf-8") as file:
        rows = {(float(row["phase"]), float(row["epoch"])): row for row in csv.DictReader(file)}
    top1 = float(rows[state.phase, state.best_epoch]["val_accuracy"])
    return [(top1, state.phase, f"phase{state.phase}-best.keras")]


def _keep_best_so_far(training: Training) -> None:
    """Make the best checkpoint ``model.keras`` after Ctrl-C, so that the run can be exported as it is."""
    run, state = training.run, training.state
    if run.metrics.exists() and not run.read_json(run.metrics)["interrupted"]:
        return  # the run was finished before it was resumed, and what it measured stays
    measured = _measured(training) + _best_epoch(training)
    found = [item for item in measured if (run.checkpoints / item[2]).exists()]  # Ctrl-C can come before it is written
    if not found:
        _say(f"{run.path}: no epoch was finished yet; hybrid-train --resume starts it again", "yellow")
        return
    top1, phase, name = max(found)
    with replacing(run.model) as partial:
        shutil.copyfile(run.checkpoints / name, partial)
    run.write_json(
        run.metrics, {"interrupted": True, "from": name, "top1": top1, "phase": state.phase, "epoch": state.epoch}
    )
    plot_curves(run)
    _say(f"{run.model} holds the best weights so far, of phase {phase}; hybrid-train --resume continues", "yellow")


def _report(training: Training, seconds: float) -> None:
    run, spec = training.run, training.spec
    size = training.settings.phases[1].batch_size
    batches = Batches(training.validation, spec, size, kept=training.kept)
    measured = evaluate(training.model, batches, "final validation")
    rates = measured.class_rates(spec.class_labels)
    metrics: dict[str, Any] = {
        "interrupted": False,
        "top1": measured.top(1),
        "top5": measured.top(5),
        "loss": measured.loss,
        "validation_images": len(training.validation),
        "training_images": len(training.train),
        "seconds": training.state.seconds,
        "seconds_this_start": seconds,
        "peak_memory_mib": peak_mib(),
        "phases": training.state.results,
        "classes": rates,
    }
    run.write_json(run.metrics, metrics)
    plot_curves(run)
    plot_confusion(measured.confusion, spec.class_labels, run.path / "confusion.png")
    plot_class_rates(rates, run.path / "classes.png")
