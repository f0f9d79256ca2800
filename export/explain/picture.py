"""Draws one image on its way through a Keras model: the request is checked first, and only then is Keras loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...runtime.errors import RunError, UsageError
from ...runtime.preprocess import read_image
from ...runtime.storage import check_writable
from ...train.run_folder import RunFolder
from ..adopt.adoption import is_foreign
from ..step_log import StepLog


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
    """Find the model, a run folder or a ``.keras`` file, by default the newest run of ``runs``, and read the image.

    Raises:
        ImageError: the image can't be read.
        UsageError: ``out`` is no PNG's name, or in a folder that is not there or can't be written to.
        RunError: there is no run, or one without a trained model.
    """
    check_writable("--picture", out, ".png")
    return PictureRequest(read_image(image), image.name, _model_file(model, runs), out)


def _model_file(model: Path | None, runs: Path) -> Path:
    if model is not None and is_foreign(model):
        raise UsageError(
            f"--picture {model}: expected a model of hybrid-train, found one that somebody else trained: only of its "
            "own branches are there pictures"
        )
    if model is not None and model.is_file():
        return model
    run = RunFolder.find(model, runs)
    if not run.model.is_file():
        raise RunError(f"{run.path}: expected a trained model.keras, found none; finish the training with --resume")
    return run.model


def draw_picture(request: PictureRequest, steps: StepLog | None = None) -> str:
    """Draw one image's way through the model, and return a line with the picture's path and the model's answer.

    Raises:
        ModelFileError: the file is not a model that hybrid-train wrote.
    """
    from ...runtime.console import percent  # noqa: PLC0415  # these load Keras and matplotlib
    from ...train.model_file import load_model  # noqa: PLC0415
    from .insides import look_inside  # noqa: PLC0415
    from .panels import write_picture  # noqa: PLC0415

    steps = steps or StepLog(quiet=True)
    with steps.step("load the model"):
        model, spec = load_model(request.model)
    with steps.step("classify and draw"):
        insides = look_inside(model, spec, request.frame)
        write_picture(insides, request.name, request.out)
    first = insides.ranking[0]
    return f"picture {request.out}: {spec.class_labels[first]}, {percent(float(insides.probabilities[first]))}"
