"""A whole training runs here: the data is checked, the phases run, the best weights are measured and put in place."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import keras

from ..runtime.console import say, status
from ..runtime.errors import DataError, ImageError, RunError
from ..runtime.process import peak_mib
from ..runtime.spec import ModelSpec
from ..runtime.storage import replacing, write_json
from .batches import Batches
from .best_weights import choose_weights
from .checkpoints import Training, TrainingState, read_stopped, record_start
from .data import balanced_weights, scan_for
from .data_report import show_report
from .devices import training_devices
from .evaluation import evaluate, plot_class_rates, plot_confusion, plot_curves
from .model import KerasModel, build_model
from .model_file import load_model, load_pretrained, save_model
from .phase import fit_phase, prepare_phase
from .run_folder import RunFolder
from .training_settings import TrainSettings


def train(settings: TrainSettings, runs: Path = Path("runs"), name: str | None = None) -> RunFolder:
    """Train a model from images in class folders, and return the finished run folder.

    The run's name is by default the date, the time and the branches.

    Raises:
        UsageError: the devices are not there, or a phase's batch can't be split evenly over them.
        DataError: the data can't be trained on, which is found before any training starts; or an image that was
            readable then is no longer when its batch comes.
        WeightsError: the pretrained weights can't be had.
        RunError: the run folder can't be written, or no epoch had a finite loss.
        KeyboardInterrupt: Ctrl-C is passed on, after the best weights so far were put in place.
    """
    with training_devices(settings.devices, settings.phases):
        return _train(settings, runs, name)


def _train(settings: TrainSettings, runs: Path, name: str | None) -> RunFolder:
    data = scan_for(settings)
    show_report(data, settings.class_weights, status)
    spec = settings.spec.replace(class_labels=data.labels)
    with _precision(settings):
        model = _starting_model(settings, spec)
        run = RunFolder.create(runs, name, spec.branches)
        with run.locked(), _named_failures(run):
            training = record_start(run, settings, spec, data)
            say(
                f"{run.path}: {len(data.train)} training and {len(data.validation)} validation images of "
                f"{spec.num_classes} classes, {len(data.skipped)} skipped; {model.count_params():,} parameters",
                "",
            )
            _run_to_the_end(training, model, TrainingState())
    return run


def resume(
    path: Path | None = None, runs: Path = Path("runs"), devices: int | Literal["all"] | None = None
) -> RunFolder:
    """Continue a killed or interrupted training, by default the newest of ``runs``, from the last epoch it finished.

    It goes on with ``devices``, by default those that it was started with.

    Raises:
        UsageError: the devices are not there.
        RunError: there is no run, too little of it to continue, or another process is training in it.
        DataError: images that the run trains on are no longer there.
    """
    run = RunFolder.find(path, runs)
    with run.locked(), _named_failures(run):
        training, state = read_stopped(run)
        phases = training.settings.phases
        wanted = training.settings.devices if devices is None else devices
        with training_devices(wanted, phases), _precision(training.settings):
            if state.phase > 1:
                model, _ = load_model(run.checkpoint(state.phase - 1))
            else:
                model = _starting_model(training.settings, training.spec)
            where = "after the phases"
            if state.phase <= len(phases):
                where = f"phase {state.phase}, {state.epoch} of {phases[state.phase - 1].epochs} epochs done"
            say(f"{run.path}: continuing, {where}", "")
            _run_to_the_end(training, model, state)
    return run


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


def _starting_model(settings: TrainSettings, spec: ModelSpec) -> KerasModel:
    """Build the starting model, by the seed the same again when a run is resumed before its first checkpoint."""
    keras.utils.set_random_seed(settings.seed)
    model = build_model(spec)
    load_pretrained(model, spec, settings.weights)
    return model


def _run_to_the_end(training: Training, model: KerasModel, state: TrainingState) -> None:
    began = time.perf_counter()
    try:
        while state.phase <= len(training.settings.phases):
            state = _run_phase(training, model, state)
        _take_best_phase(training, model, state)
        _finish(training, model, state, began)
    except KeyboardInterrupt:
        _keep_best_so_far(training.run)
        raise


def _run_phase(training: Training, model: KerasModel, state: TrainingState) -> TrainingState:
    """Run the phase at which ``state`` stands; leave its weights in ``model``, and return where the next one begins."""
    run, results = training.run, state.results
    if training.settings.phases[state.phase - 1].epochs:
        prepared = prepare_phase(training, model, state)
        state = fit_phase(prepared)
        if state.best_epoch:
            results = [*results, choose_weights(prepared, state)]
        else:
            _go_back(training, model, state)
    save_model(model, training.spec, run.checkpoint(state.phase))
    after = replace(state, phase=state.phase + 1, epoch=0, best=None, best_epoch=0, weights="", results=results)
    after.write(run, state)
    return after


def _go_back(training: Training, model: KerasModel, state: TrainingState) -> None:
    """Go back to the result of the phase before, after a phase in which no epoch had a finite loss."""
    fault = f"phase {state.phase}: no epoch had a finite loss"
    if not state.results:
        rate = training.settings.phases[state.phase - 1].learning_rate
        remedy = f"start a new run with a smaller --phase{state.phase}-lr than {rate:g}"
        half = training.settings.mixed_precision != "off"
        raise RunError(f"{fault}; {remedy}{', or without --mixed-precision' if half else ''}")
    say(f"{fault}: the weights of the phase before it are kept", "yellow")
    load_model(training.run.checkpoint(state.phase - 1), into=model)


def _take_best_phase(training: Training, model: KerasModel, state: TrainingState) -> None:
    """Leave the weights of the phase with the best top-1 in ``model``, of the later one where two are equal."""
    _, best = max(_measured_phases(state))
    if best != state.results[-1]["phase"]:
        say(f"phase {best} had the better top-1: its weights are the result", "")
        load_model(training.run.checkpoint(best), into=model)


def _measured_phases(state: TrainingState) -> list[tuple[float, int]]:
    """List the top-1 on validation and the number of each finished phase."""
    found = []
    for result in state.results:
        kept = next(item for item in result["candidates"] if item["weights"] == result["kept"])
        found.append((kept["top1"], result["phase"]))
    return found


def _finish(training: Training, model: KerasModel, state: TrainingState, began: float) -> None:
    """Put the model in place and measure it, as it was saved, on the validation images."""
    run, spec, settings = training.run, training.spec, training.settings
    save_model(model, spec, run.model)
    if settings.mixed_precision != "off":
        keras.mixed_precision.set_global_policy("float32")
        model = load_model(run.model)[0]
    batches = Batches(training.validation, spec, settings.phases[1].batch_size, kept=training.kept)
    measured = evaluate(model, batches, "final validation")
    rates = measured.class_rates(spec.class_labels)
    metrics: dict[str, Any] = {
        "interrupted": False,
        "top1": measured.top(1),
        "top5": measured.top(5),
        "loss": measured.loss,
        "validation_images": len(training.validation),
        "training_images": len(training.train),
        "seconds": state.seconds,
        "seconds_this_start": time.perf_counter() - began,
        "peak_memory_mib": peak_mib(),
        "class_weights": balanced_weights(training.train) if settings.class_weights == "balanced" else None,
        "phases": state.results,
        "classes": rates,
    }
    write_json(run.metrics, metrics)
    plot_curves(run)
    plot_confusion(measured.confusion, spec.class_labels, run.path / "confusion.png")
    plot_class_rates(rates, run.path / "classes.png")


def _keep_best_so_far(run: RunFolder) -> None:
    """Make the best checkpoint ``model.keras`` after Ctrl-C, so that the run can be exported as it is."""
    if run.metrics.exists() and not run.read_json(run.metrics)["interrupted"]:
        return  # the run was finished before it was resumed, and what it measured stays
    state = TrainingState(**run.read_json(run.state))
    best = [(top1, phase, run.checkpoint(phase)) for top1, phase in _measured_phases(state)]
    if state.best_epoch:
        rows = {(row["phase"], row["epoch"]): row for row in run.read_history()}
        top1 = rows[state.phase, state.best_epoch]["val_accuracy"]
        best.append((top1, state.phase, run.checkpoint(state.phase, "best")))
    if not best:
        say(f"{run.path}: no epoch was finished yet; hybrid-train --resume starts it again", "yellow")
        return
    top1, phase, checkpoint = max(best)
    with replacing(run.model) as partial:
        shutil.copyfile(checkpoint, partial)
    write_json(
        run.metrics,
        {"interrupted": True, "from": checkpoint.name, "top1": top1, "phase": state.phase, "epoch": state.epoch},
    )
    plot_curves(run)
    say(f"{run.model} holds the best weights so far, of phase {phase}; hybrid-train --resume continues", "yellow")
