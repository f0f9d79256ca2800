"""Draws curves, confusion matrix and each class's rates as PNG files."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt

from ..runtime.storage import replacing
from .run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_class_rates", "plot_confusion", "plot_curves"]

mpl.rcParams["text.parse_math"] = False  # a class may be called a$b$c
MAX_NUMBERED = 30  # classes up to which the numbers in the cells can be read
DPI = 110


def plot_curves(run: RunFolder) -> None:
    """Draw ``curves.png`` from ``history.csv``: each epoch's loss, top-1 and top-5, of training and validation."""
    rows = [
        {key: float(value) for key, value in row.items()}
        for row in csv.DictReader(io.StringIO(run.history.read_text(encoding="utf-8")))
    ]
    epochs = np.arange(1, len(rows) + 1)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for axis, key, title in zip(axes, ("loss", "accuracy", "top5"), ("loss", "top-1", "top-5"), strict=True):
        marker = "o" if len(rows) < 30 else None
        axis.plot(epochs, [row[key] for row in rows], label="training", marker=marker, markersize=3)
        axis.plot(epochs, [row[f"val_{key}"] for row in rows], label="validation", marker=marker, markersize=3)
        starts = [i for i in range(1, len(rows)) if rows[i]["phase"] != rows[i - 1]["phase"]]
        for start in starts:
            axis.axvline(start + 0.5, color="gray", linestyle="--", linewidth=1)
            axis.text(start + 0.55, 0.02, "phase 2", transform=axis.get_xaxis_transform(), color="gray")
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        _percent(axis, key)
    axes[0].legend()
    figure.suptitle(run.name)
    _save(figure, run.path / "curves.png")


def plot_confusion(matrix: npt.NDArray[np.int64], labels: tuple[str, ...], path: Path) -> None:
    """Draw a confusion matrix.

    Args:
        matrix: (C, C) counts; rows are true classes, columns are answers.
        labels: the C class labels.
        path: the PNG to write.
    """
    classes = len(labels)
    side = min(5 + 0.32 * classes, 24)
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    drawn = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(drawn, ax=axis, shrink=0.7, label="share of the true class")
    size = 9 if classes <= MAX_NUMBERED else 5
    axis.set_xticks(range(classes), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(classes), labels, fontsize=size)
    axis.set(xlabel="answer", ylabel="true class", title=f"confusion on {matrix.sum()} validation images")
    if classes <= MAX_NUMBERED:
        for row, column in np.argwhere(matrix > 0):
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=color)
    _save(figure, path)


def plot_class_rates(rates: list[dict[str, Any]], path: Path) -> None:
    """Draw each class's top-1 and top-5 rates as bars, the best class on top.

    Args:
        rates: the list from ``Evaluation.class_rates``; classes without images are left out.
        path: the PNG to write.
    """
    shown = sorted((rate for rate in rates if rate["images"]), key=lambda rate: (rate["top1"], rate["top5"]))
    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.28 * len(shown)), layout="constrained")
    places = np.arange(len(shown))
    axis.barh(places, [rate["top5"] for rate in shown], color="#b9d3ee", label="top-5")
    axis.barh(places, [rate["top1"] for rate in shown], color="#2f6fb0", label="top-1", height=0.5)
    axis.set_yticks(places, [f"{rate['label']} ({rate['images']})" for rate in shown])
    axis.set(xlim=(0, 1), title="top-1 and top-5 by class (validation images)")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    axis.margins(y=0.01)
    _save(figure, path)


def _percent(axis: Axes, key: str) -> None:
    if key != "loss":
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _save(figure: Figure, path: Path) -> None:
    with replacing(path, suffix=".png") as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a label that the font lacks becomes boxes, silently
        figure.savefig(partial, dpi=DPI)
    plt.close(figure)
