"""The best weights of a fitted phase are chosen by validation: the best epoch's, or those of the last one.

BatchNormalization's statistics are re-estimated on training images, with the weights standing still. During a short
training the moving averages (momentum 0.99) lag far behind the weights: the same weights had 39 % with the averages
that training left, and 61 % with re-estimated ones. Forty batches at momentum 0.9 forget the old values
(0.9^40 = 1.5 %) and average over about the last ten batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from ..runtime.console import progress, say
from .checkpoints import TrainingState
from .evaluation import Evaluation, evaluate
from .model import KerasModel, leaf_layers
from .model_file import load_model, save_model
from .phase import PreparedPhase


@dataclass(frozen=True)
class _WeightsCandidate:
    """Weights that could be the phase's result, what they measured, and their file; None: they are in the model."""

    name: str
    evaluation: Evaluation
    file: Path | None

    @property
    def record(self) -> dict[str, Any]:
        measured = self.evaluation
        return {"weights": self.name, "loss": measured.loss, "top1": measured.top(1), "top5": measured.top(5)}


def choose_weights(prepared: PreparedPhase, state: TrainingState) -> dict[str, Any]:
    """Leave a fitted phase's best weights in its model, and return what each candidate measured and which was kept.

    The candidates are the best epoch's weights as they were trained, and, where BatchNormalization trains, those of
    the last and of the best epoch with re-estimated statistics. The phase's monitored number decides, then the loss.
    """
    training, whole = prepared.training, prepared.whole
    best, last = (training.run.checkpoint(state.phase, kind) for kind in ("best", "last"))
    reestimates = bool(training.settings.bn_batches and trained_norms(prepared.fitted))
    candidates = []
    if reestimates and state.best_epoch != state.epoch:
        candidate = _reestimated(prepared, "last epoch", last)
        if math.isfinite(candidate.evaluation.loss):
            save_model(whole, training.spec, last)
            candidates.append(candidate)
    load_model(best, into=whole)
    candidates.append(_measured(prepared, "best epoch", best if reestimates else None))
    if reestimates:
        candidates.append(_reestimated(prepared, "best epoch", None))
    chosen = min(candidates, key=lambda one: _cost(one, prepared))
    _show(candidates, chosen, state.phase)
    if chosen.file is not None:
        load_model(chosen.file, into=whole)
    last.unlink(missing_ok=True)
    return {
        "phase": state.phase,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "kept": chosen.name,
        "candidates": [candidate.record for candidate in candidates],
    }


def _measured(prepared: PreparedPhase, name: str, file: Path | None) -> _WeightsCandidate:
    return _WeightsCandidate(name, evaluate(prepared.fitted, prepared.validation, f"validation, {name}"), file)


def _reestimated(prepared: PreparedPhase, epoch: str, file: Path | None) -> _WeightsCandidate:
    settings = prepared.training.settings
    stream = prepared.training_batches(augmented=False)
    inputs = (stream[index][0] for index in range(settings.bn_batches))
    with progress(unit="batches", transient=True) as bar:
        task = bar.add_task(f"BatchNorm statistics, {epoch}", total=settings.bn_batches)
        reestimate(prepared.fitted, bar.track(inputs, task_id=task), settings.bn_momentum)
    return _measured(prepared, f"{epoch}, BatchNorm re-estimated", file)


def _cost(candidate: _WeightsCandidate, prepared: PreparedPhase) -> tuple[float, float]:
    measured, phase = candidate.evaluation, prepared.settings
    return phase.cost(measured.value(phase.monitor)), measured.loss


def _show(candidates: list[_WeightsCandidate], chosen: _WeightsCandidate, phase: int) -> None:
    for candidate in candidates:
        mark = " <- kept" if candidate is chosen and len(candidates) > 1 else ""
        values = candidate.record
        say(
            f"phase {phase}, {values['weights']}: loss {values['loss']:.3f} top-1 {values['top1']:.1%} "
            f"top-5 {values['top5']:.1%}{mark}",
            "",
        )


def trained_norms(model: KerasModel) -> list[Any]:
    """Return the BatchNormalization layers that a training of ``model`` updates, those that are not frozen."""
    found = [layer for layer in leaf_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    return [layer for layer in found if layer.trainable]


def reestimate(model: KerasModel, inputs: Iterable[Any], momentum: float = 0.9) -> None:
    """Update the moving statistics of all trained BatchNormalization layers; no weight changes.

    ``inputs`` are batches of the model's inputs, from training images; each batch keeps ``momentum`` of the old value.
    """
    norms = trained_norms(model)
    before = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = momentum
    try:
        step = tf.function(lambda batch: model(batch, training=True), reduce_retracing=True)
        for batch in inputs:
            step(tf.nest.map_structure(tf.convert_to_tensor, batch))
    finally:
        for layer, value in zip(norms, before, strict=True):
            layer.momentum = value
