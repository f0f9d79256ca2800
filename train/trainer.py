"""A whole training: data checked, two phases, the best weights measured, everything in the run folder."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import keras

from ..runtime.errors import RunError
from ..runtime.spec import ModelSpec
from ..runtime.terminal import status
from .batches import Batches
from .callbacks import PhaseState
from .data import DataSet, calibration_sample, read_list, scan, write_list
from .evaluation import evaluate
from .files import replacing
from .model import KerasModel, build_model
from .model_file import load_model, save_model
from .phase import Training, run_phase
from .plots import plot_class_rates, plot_confusion, plot_curves
from .pretrained import load_pretrained
from .run_folder import RunFolder
from .settings import TrainSettings

__all__ = ["resume", "train"]

CALIBRATION_IMAGES = 500
SHOWN = 20


def train(settings: TrainSettings, runs: Path = Path("runs"), name: str | None = None) -> RunFolder:
    """Train a model from images in class folders.

    Args:
        settings: what to train, on what and how.
        runs: the folder of all runs.
        name: the run's name; by default the date, the time and the branches.

    Returns:
        The finished run folder.

    Raises:
        DataError: the data can't be trained on; raised before any training starts.
        WeightsError: the pretrained weights can't be had.
        KeyboardInterrupt: passed on, after the best weights so far were put in place.
    """
    data = scan(Path(settings.data), val_fraction=settings.val_fraction, seed=settings.seed)
    _show_faults(data)
    spec = settings.spec.replace(class_labels=data.labels)
    model = _fresh_model(settings, spec)
    run = RunFolder.create(runs, name, spec.branches)
    run.write_json(run.settings, settings.model_dump())
    run.write_json(run.spec, spec.model_dump())
    write_list(run.images("train"), data.train)
    write_list(run.images("validation"), data.validation)
    write_list(run.images("calibration"), calibration_sample(data.train, CALIBRATION_IMAGES, settings.seed))
    skipped = [{"path": str(item.path), "reason": item.reason} for item in data.skipped]
    run.write_json(run.path / "skipped.json", skipped)
    status.print(
        f"{run.path}: {len(data.train)} training and {len(data.validation)} validation images of {spec.num_classes} "
        f"classes, {len(skipped)} unreadable skipped; {model.count_params() / 1e6:.1f} M parameters"
    )
    training = Training(run, settings, spec, list(data.train), list(data.validation), model, PhaseState())
    run.write_json(run.state, vars(training.state))
    return _run(training)


def resume(path: Path | None = None, runs: Path = Path("runs")) -> RunFolder:
    """Continue a training that was killed or interrupted, from the last epoch it finished.

    Args:
        path: the run folder; the newest by default.
        runs: the folder of all runs.

    Raises:
        RunError: there is no run, or not enough of one to continue.
    """
    run = RunFolder.find(path, runs)
    settings = TrainSettings.make(**run.read_json(run.settings))
    spec = ModelSpec.make(**run.read_json(run.spec))
    state = _read_state(run)
    lists = [read_list(run.images(kind)) for kind in ("train", "validation")]
    result = run.checkpoints / f"phase{state.phase - 1}.keras"
    if state.phase > 1:
        _set_policy(settings)
        model, _ = load_model(result)
    else:
        model = _fresh_model(settings, spec)
    where = "finished" if state.phase > len(settings.phases) else f"phase {state.phase} after epoch {state.epoch}"
    status.print(f"{run.path}: continuing, {where}")
    return _run(Training(run, settings, spec, lists[0], lists[1], model, state))


def _show_faults(data: DataSet) -> None:
    """Name what is skipped; a long list is cut, the run folder's ``skipped.json`` has all of it."""
    for warning in data.warnings:
        status.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    for item in data.skipped[:SHOWN]:
        status.print(f"skipped {item.path}: {item.reason}", style="yellow", markup=False, soft_wrap=True)
    if len(data.skipped) > SHOWN:
        status.print(f"and {len(data.skipped) - SHOWN} more; all are in the run's skipped.json", style="yellow")


def _read_state(run: RunFolder) -> PhaseState:
    try:
        return PhaseState(**run.read_json(run.state))
    except TypeError as error:
        raise RunError(f"{run.state} is of another version of hybrid-edge: {error}; start a new run") from None


def _set_policy(settings: TrainSettings) -> None:
    policy = "float32" if settings.mixed_precision == "off" else f"mixed_{settings.mixed_precision}"
    keras.mixed_precision.set_global_policy(policy)


def _fresh_model(settings: TrainSettings, spec: ModelSpec) -> KerasModel:
    """The starting model; the seed makes it the same again when a run is resumed before its first checkpoint."""
    _set_policy(settings)
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
    except KeyboardInterrupt:
        _keep_best_so_far(training)
        raise
    training.model = _best_phase(training)
    save_model(training.model, training.spec, training.run.model)
    _report(training, time.perf_counter() - started)
    return training.run


def _best_phase(training: Training) -> KerasModel:
    """The result of the last phase, unless it made an earlier one worse by top-1."""
    best: tuple[float, int] = (-1.0, 0)
    for result in training.state.results:
        kept = next(item for item in result["candidates"] if item["weights"] == result["kept"])
        best = max(best, (kept["top1"], result["phase"]))
    if best[1] == training.state.results[-1]["phase"]:
        return training.model
    status.print(f"phase {best[1]} was better than the phase after it: its weights are kept")
    return load_model(training.run.checkpoints / f"phase{best[1]}.keras")[0]


def _keep_best_so_far(training: Training) -> None:
    """After Ctrl-C: the best checkpoint becomes ``model.keras``, so that the run can be exported as it is."""
    run = training.run
    names = [f"phase{training.state.phase}-best.keras", f"phase{training.state.phase - 1}.keras"]
    found = [run.checkpoints / name for name in names if (run.checkpoints / name).exists()]
    if not found:
        status.print(f"{run.path}: no epoch was finished yet; hybrid-train --resume starts it again", style="yellow")
        return
    with replacing(run.model) as partial:
        partial.write_bytes(found[0].read_bytes())
    if run.history.exists():
        plot_curves(run)
    run.write_json(
        run.metrics,
        {"interrupted": True, "from": found[0].name, "best": training.state.best, "epoch": training.state.epoch},
    )
    status.print(f"{run.model} holds the best weights so far; hybrid-train --resume continues", style="yellow")


def _report(training: Training, seconds: float) -> None:
    run, spec = training.run, training.spec
    batches = Batches(training.validation, spec, training.settings.phases[1].batch_size)
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
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "phases": training.state.results,
        "classes": rates,
    }
    run.write_json(run.metrics, metrics)
    plot_curves(run)
    plot_confusion(measured.confusion, spec.class_labels, run.path / "confusion.png")
    plot_class_rates(rates, run.path / "classes.png")
