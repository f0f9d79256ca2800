"""Reads and checks what --resume finds in a run folder, before anything is continued."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import DataError, RunError, UsageError
from ..runtime.spec import ModelSpec
from ..runtime.storage import sweep
from .callbacks import PhaseState
from .data import LabelledImage, read_list
from .run_folder import RunFolder
from .settings import TrainSettings

__all__ = ["Unfinished", "read_unfinished"]


@dataclass(frozen=True)
class Unfinished:
    """A training that stopped: its settings, its images and where it stood."""

    settings: TrainSettings
    spec: ModelSpec
    state: PhaseState
    train: list[LabelledImage]
    validation: list[LabelledImage]


def read_unfinished(run: RunFolder) -> Unfinished:
    """Read what a stopped training left, and remove files that a kill left unfinished or without use.

    Raises:
        RunError: a file is missing, damaged or of another version.
        DataError: images that the run trains on are no longer there.
    """
    settings = _record(run, run.settings, TrainSettings.make)
    spec = _record(run, run.spec, ModelSpec.make)
    state = _record(run, run.state, PhaseState)
    try:
        train, validation = (read_list(run.images(kind)) for kind in ("train", "validation"))
    except DataError as error:
        raise RunError(f"{error}; it is not a complete run: start a new one with hybrid-train DATA") from None
    training = state.phase <= len(settings.phases)  # else only the final validation is left
    _check_images([*train, *validation] if training else validation, settings.data)
    for name in ("model.keras", "*.json", "*.csv", "*.png"):
        sweep(run.path, name)
    sweep(run.checkpoints, "*")
    for weights in run.checkpoints.glob("phase*-epoch*.weights.h5"):
        if weights.name != state.weights:
            weights.unlink()
    return Unfinished(settings, spec, state, train, validation)


def _record(run: RunFolder, path: Path, make: Any) -> Any:
    content = run.read_json(path)
    try:
        return make(**content)
    except (TypeError, UsageError) as error:
        raise RunError(f"{path} is damaged, or of another version of hybrid-edge: {error}; start a new run") from None


def _check_images(images: list[LabelledImage], data: str) -> None:
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the run's {len(images)} images are no longer there, the first is {missing[0]}: "
            f"put DATA back where it was ({data}), or start a new run"
        )
