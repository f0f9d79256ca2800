"""Turns a picture's request into its PNG."""

from __future__ import annotations

from ...runtime.console import percent
from ...train.model_file import load_model
from ..steps import Steps
from .draw import write_picture
from .insides import look_inside
from .request import PictureRequest

__all__ = ["draw_picture"]


def draw_picture(request: PictureRequest, steps: Steps | None = None) -> str:
    """Load the model, classify the image with Keras and draw what happened.

    Args:
        request: what to draw, from ``make_picture_request``.
        steps: reports what is being done.

    Returns:
        One line: the picture's path and the model's answer.

    Raises:
        ModelFileError: the file is not a model that hybrid-train wrote.
    """
    steps = steps or Steps(quiet=True)
    with steps.step("load the model"):
        model, spec = load_model(request.model)
    with steps.step("classify and draw"):
        insides = look_inside(model, spec, request.frame)
        write_picture(insides, request.name, request.out)
    first = insides.ranking[0]
    return f"picture {request.out}: {spec.class_labels[first]}, {percent(float(insides.probabilities[first]))}"
