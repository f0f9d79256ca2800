"""Finds and checks what to draw before TensorFlow is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...runtime.errors import RunError, UsageError
from ...runtime.preprocess import read_image
from ...train.run_folder import RunFolder

__all__ = ["PictureRequest", "make_picture_request"]


@dataclass(frozen=True, eq=False)
class PictureRequest:
    """An image, (H, W, 3) uint8 BGR, with the name of its file; the model file; and the PNG to write."""

    frame: npt.NDArray[np.uint8]
    name: str
    model: Path
    out: Path


def make_picture_request(
    image: Path, out: Path, model: Path | None = None, runs: Path = Path("runs")
) -> PictureRequest:
    """Find what to draw, and read the image.

    Args:
        image: any image file.
        out: the PNG to write.
        model: a run folder or a ``.keras`` file; by default the newest run of ``runs``.
        runs: the folder of all runs.

    Raises:
        ImageError: the image can't be read.
        UsageError: ``out`` is no PNG's name, or in a folder that is not there or can't be written to.
        RunError: there is no run, or one without a trained model.
    """
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UsageError(f"--picture: expected IMAGE and the name of a PNG to write, found {out} for the PNG")
    if not out.parent.is_dir():
        raise UsageError(f"--picture: expected the folder {out.parent} to exist, found none; create it")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--picture: expected a folder that can be written to, found {out.parent}; choose another")
    return PictureRequest(read_image(image), image.name, _model_file(model, runs), out)


def _model_file(model: Path | None, runs: Path) -> Path:
    if model is not None and model.is_file():
        return model
    run = RunFolder.find(model, runs)
    if not run.model.is_file():
        raise RunError(f"{run.path}: expected a trained model.keras, found none; finish the training with --resume")
    return run.model
