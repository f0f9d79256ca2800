"""Draws the last panel of the picture, from the branches' vectors to the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...runtime.canvas.draw import percent
from .insides import Insides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["draw_decision"]

MAX_FEATURES = 48  # drawn of those that decide
MAX_CLASSES = 5  # drawn with their probabilities
CAPTION_HEIGHT = 0.55  # inches below the bars
CNN, RECURRENT, PRODUCT, FOR, AGAINST = "#2f6fb3", "#c0562c", "#7a4fa3", "#1a7f37", "#c0362c"


def draw_decision(place: SubFigure, insides: Insides) -> None:
    """Draw the features that decide between the first two classes, branch by branch, and the first classes."""
    first, second = (insides.spec.class_labels[index] for index in insides.ranking[:2])
    evidence = insides.evidence
    chosen = np.argsort(-np.abs(evidence), kind="stable")[:MAX_FEATURES]
    chosen = chosen[np.argsort(-evidence[chosen], kind="stable")]
    recurrent = insides.recurrent.vector if insides.recurrent is not None else None
    rows: list[tuple[str, Array, str]] = []
    if insides.cnn is not None:
        rows.append(("CNN", insides.cnn, CNN))
    if recurrent is not None:
        rows.append(("recurrent", recurrent, RECURRENT))
    if len(rows) == 2:
        rows.append(("product", insides.joined, PRODUCT))
    grid = place.add_gridspec(len(rows) + 1, 2, width_ratios=(2.3, 1))
    grid.update(left=0.085, right=0.98, top=0.93, bottom=CAPTION_HEIGHT / _height(place), hspace=0.16, wspace=0.32)
    for number, (name, values, color) in enumerate(rows):
        _bars(place.add_subplot(grid[number, 0]), values[chosen], name, color)
    axis = place.add_subplot(grid[len(rows), 0])
    _bars(axis, evidence[chosen], "× weight", np.where(evidence[chosen] > 0, FOR, AGAINST))
    axis.set_xlabel(_sum(insides, first, second, len(chosen)), color=QUIET, size=8, parse_math=False)
    _draw_classes(place.add_subplot(grid[:, 1]), insides)


def _height(place: SubFigure) -> float:
    """Return the height of a figure's part in inches."""
    return float(place.bbox.height / place.figure.dpi)


def _sum(insides: Insides, first: str, second: str, shown: int) -> str:
    evidence = insides.evidence
    gap = float(insides.logits[insides.ranking[0]] - insides.logits[insides.ranking[1]])
    return (
        f"the {shown} of {len(evidence)} features that speak loudest for {_shortened(first)} (green) or {_shortened(second)} "
        f"(red);\nall of them and the biases add up to {gap:.2f} between the two logits"
    )


def _bars(axis: Axes, values: Array, name: str, color: Any) -> None:
    axis.bar(np.arange(len(values)), values, color=color, width=0.8)
    axis.axhline(0, color=QUIET, linewidth=0.6)
    axis.set(xticks=[], xlim=(-0.7, len(values) - 0.3))
    axis.set_ylabel(name, size=8, color=QUIET)
    axis.tick_params(labelsize=6.5)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_classes(axis: Axes, insides: Insides) -> None:
    shown = insides.ranking[:MAX_CLASSES]
    places = np.arange(len(shown))
    values = insides.probabilities[shown]
    axis.barh(places, values, color=[FOR, AGAINST, *[QUIET] * MAX_CLASSES][: len(shown)], height=0.6)
    for number, (index, value) in enumerate(zip(shown, values, strict=True)):
        text = f"{percent(float(value))}  ({insides.logits[index]:.1f})".replace("-", "−")
        axis.text(float(value) + 0.02, number, text, va="center", size=8)
    labels = [_shortened(insides.spec.class_labels[index]) for index in shown]
    axis.set_yticks(places, labels, size=8, parse_math=False)
    axis.set(xlim=(0, 1.35), xticks=[])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_title("probability (logit)", size=8, color=QUIET, loc="left")
    axis.spines[["top", "right", "bottom"]].set_visible(False)
