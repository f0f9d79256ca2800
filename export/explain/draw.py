"""Draws the picture of one image's way through a model, section by section, as a PNG."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...runtime.canvas.draw import percent
from ...runtime.storage import replacing
from .branches import draw_feature_maps, draw_input, draw_recurrent
from .decision import draw_decision
from .insides import Insides

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

__all__ = ["write_picture"]

PICTURE_WIDTH = 12.0  # inches
PICTURE_DPI = 100
HEADER_HEIGHT = 0.35
MAP_ROW_HEIGHT = 1.32  # inches of a row of feature maps

Section = tuple[float, str, Callable[["SubFigure"], None]]


def write_picture(insides: Insides, name: str, path: Path) -> None:
    """Draw what the model was given, what each branch made of it, and how the answer came about.

    Args:
        insides: what happened inside the model, from ``look_inside``.
        name: the image's name, for the title.
        path: the PNG to write; it is replaced as a whole.
    """
    sections = _sections(insides)
    height = sum(section[0] + HEADER_HEIGHT for section in sections) + HEADER_HEIGHT
    figure = Figure(figsize=(PICTURE_WIDTH, height))
    FigureCanvasAgg(figure)
    ratios = [HEADER_HEIGHT, *(item[0] + HEADER_HEIGHT for item in sections)]
    rows = figure.subfigures(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
    first = insides.ranking[0]
    answer = f"{insides.spec.class_labels[first]}, {percent(float(insides.probabilities[first]))}"
    rows[0].text(0.01, 0.35, f"{name}: {answer}", size=15, weight="bold", va="center", parse_math=False)
    for place, (size, title, draw) in zip(rows[1:], sections, strict=True):
        share = HEADER_HEIGHT / (size + HEADER_HEIGHT)
        place.text(0.01, 1 - share / 2, title, size=11, weight="bold", va="center", parse_math=False)
        header, body = place.subfigures(2, 1, height_ratios=[share, 1 - share])
        header.set_facecolor("none")
        draw(body)
    with replacing(path, suffix=".png") as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a script that the font lacks: boxes, not a page of warnings
        figure.savefig(partial, dpi=PICTURE_DPI, metadata={"Software": None})


def _sections(insides: Insides) -> list[Section]:
    """List the picture's sections: the height of each in inches, its title, and the function that draws it."""
    spec = insides.spec
    given = f"What the model is given: {spec.image_size}×{spec.image_size} pixels"
    if spec.uses_rnn:
        steps, values = spec.sequence_shape
        given += f", for the recurrent branch in gray, as {steps} steps of {values} values"
    sections: list[Section] = [(3.0, given, lambda place: draw_input(place, insides))]
    if insides.maps:
        title = "What the CNN sees: feature maps, those channels that vary most, each scaled to its own range"
        height = MAP_ROW_HEIGHT * len(insides.maps)
        sections.append((height, title, lambda place: draw_feature_maps(place, insides.maps)))
    recurrent = insides.recurrent
    if recurrent is not None:
        title = (
            "What the recurrent branch sees: its hidden state step by step, and the answer had the image ended there"
        )
        sections.append((3.2, title, lambda place: draw_recurrent(place, insides, recurrent)))
    both = insides.cnn is not None and recurrent is not None
    title = "How the product of both branches decides" if both else "How the branch's output decides"
    sections.append((4.4 if both else 3.0, title, lambda place: draw_decision(place, insides)))
    return sections
