"""A model is measured on labelled images, by top-1, top-5, each class's rates and the confusion matrix, and drawn.

The pictures are PNG files: the curves of all epochs, the confusion matrix, and each class's rates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

from ..runtime.console import progress
from ..runtime.storage import replacing
from .batches import Batches
from .devices import predict
from .model import KerasModel
from .run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

mpl.rcParams["text.parse_math"] = False  # a class may be called a$b$c
MAX_NUMBERED_CLASSES = 30  # classes up to which the numbers in the cells can be read
MAX_DRAWN_LABEL = 40  # characters
DPI = 110
MIN_PROBABILITY = 1e-7  # to which Keras clips probabilities before the logarithm, too


@dataclass(frozen=True)
class Evaluation:
    """The probabilities of N images over C classes, (N, C) float32, and the images' true classes, (N,) int32."""

    probabilities: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int32]

    @property
    def ranks(self) -> npt.NDArray[np.int64]:
        """How many classes are ahead of the true one, (N,): 0 for a correct first answer, C where the answer is NaN."""
        own = np.take_along_axis(self.probabilities, self.truth[:, None].astype(np.int64), axis=1)
        ties = self.probabilities == own
        before = np.arange(self.probabilities.shape[1]) < self.truth[:, None]
        ahead = (self.probabilities > own).sum(axis=1) + (ties & before).sum(axis=1)
        finite = np.isfinite(self.probabilities).all(axis=1)  # NaN is never greater: it would rank first
        return np.asarray(np.where(finite, ahead, self.probabilities.shape[1]), dtype=np.int64)

    def top(self, k: int) -> float:
        """Return the share of images whose true class is among the k likeliest, 0 to 1."""
        return float((self.ranks < k).mean())

    @property
    def loss(self) -> float:
        """The mean categorical cross-entropy."""
        own = self.probabilities[np.arange(len(self.truth)), self.truth]
        return float(-np.log(np.clip(own, MIN_PROBABILITY, 1.0)).mean())

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """The counts of answers, (C, C): rows are true classes, columns are answers."""
        classes = self.probabilities.shape[1]
        cells = self.truth.astype(np.int64) * classes + self.probabilities.argmax(axis=1)
        return np.bincount(cells, minlength=classes**2).reshape(classes, classes)

    def class_rates(self, labels: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return each class's number of images and its top-1 and top-5 rates, which are None without images."""
        ranks = self.ranks
        rates = []
        for number, label in enumerate(labels):
            own = ranks[self.truth == number]
            rates.append(
                {
                    "label": label,
                    "images": len(own),
                    "top1": float((own < 1).mean()) if len(own) else None,
                    "top5": float((own < 5).mean()) if len(own) else None,
                }
            )
        return rates

    def value(self, monitor: str) -> float:
        """Return the number that a phase monitors: ``val_loss``, ``val_accuracy`` or ``val_top5``."""
        if monitor == "val_loss":
            return self.loss
        return self.top(1 if monitor == "val_accuracy" else 5)


def evaluate(model: KerasModel, batches: Batches, what: str = "validation") -> Evaluation:
    """Run a model, which gives probabilities (N, C), in inference mode over one pass of labelled images.

    ``what`` is the progress bar's text.
    """
    parts = []
    count = batches.num_batches or 0
    with progress(unit="batches", transient=True) as bar:
        task = bar.add_task(what, total=count)
        for index in range(count):
            parts.append(predict(model, batches[index][0]))
            bar.advance(task)
    return Evaluation(np.concatenate(parts), batches.targets)


def plot_curves(run: RunFolder) -> None:
    """Draw ``curves.png`` from ``history.csv``: each epoch's loss, top-1 and top-5, of training and validation."""
    rows = run.read_history()
    epochs = np.arange(1, len(rows) + 1)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    second_phase = [number for number, row in enumerate(rows) if row["phase"] != rows[0]["phase"]]
    for axis, key, title in zip(axes, ("loss", "accuracy", "top5"), ("loss", "top-1", "top-5"), strict=True):
        marker = "o" if len(rows) < 30 else None
        axis.plot(epochs, [row[key] for row in rows], label="training", marker=marker, markersize=3)
        axis.plot(epochs, [row[f"val_{key}"] for row in rows], label="validation", marker=marker, markersize=3)
        for start in second_phase[:1]:
            axis.axvline(start + 0.5, color="gray", linestyle="--", linewidth=1)
            axis.text(start + 0.55, 0.02, "phase 2", transform=axis.get_xaxis_transform(), color="gray")
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if key != "loss":
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].legend()
    figure.suptitle(run.name)
    _save(figure, run.path / "curves.png")


def plot_confusion(matrix: npt.NDArray[np.int64], labels: tuple[str, ...], path: Path) -> None:
    """Draw a confusion matrix, (C, C) counts, as a PNG: rows are true classes, columns are answers."""
    classes = len(labels)
    side = min(5 + 0.32 * classes, 24)
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    drawn = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(drawn, ax=axis, shrink=0.7, label="share of the true class")
    size = 9 if classes <= MAX_NUMBERED_CLASSES else 5
    shown = [_shortened(label) for label in labels]
    axis.set_xticks(range(classes), shown, rotation=90, fontsize=size)
    axis.set_yticks(range(classes), shown, fontsize=size)
    axis.set(xlabel="answer", ylabel="true class", title=f"confusion on {matrix.sum()} validation images")
    if classes <= MAX_NUMBERED_CLASSES:
        for row, column in np.argwhere(matrix > 0):
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=color)
    _save(figure, path)


def plot_class_rates(rates: list[dict[str, Any]], path: Path) -> None:
    """Draw each class's top-1 and top-5 rates as bars in a PNG, the best class on top.

    ``rates`` are from ``Evaluation.class_rates``; classes without images are left out.
    """
    shown = sorted((rate for rate in rates if rate["images"]), key=lambda rate: (rate["top1"], rate["top5"]))
    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.28 * len(shown)), layout="constrained")
    axis.barh(range(len(shown)), [rate["top5"] for rate in shown], color="#b9d3ee", label="top-5")
    axis.barh(range(len(shown)), [rate["top1"] for rate in shown], color="#2f6fb0", label="top-1", height=0.5)
    axis.set_yticks(range(len(shown)), [f"{_shortened(rate['label'])} ({rate['images']})" for rate in shown])
    axis.set(xlim=(0, 1), title="top-1 and top-5 by class (validation images)")
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    axis.margins(y=0.01)
    _save(figure, path)


def _shortened(label: str) -> str:
    """Return a label with its end left out where it would leave no room for the picture."""
    return label if len(label) <= MAX_DRAWN_LABEL else f"{label[: MAX_DRAWN_LABEL - 1]}…"


def _save(figure: Figure, path: Path) -> None:
    with replacing(path, suffix=".png") as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a label that the font lacks becomes boxes, silently
        figure.savefig(partial, dpi=DPI)
    plt.close(figure)
