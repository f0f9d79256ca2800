"""Draws how often a variant's probabilities are right, without and with its temperature: a reliability diagram."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...runtime.manifest import ReliabilityBin, Temperature
from ...runtime.storage import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, ROW_HEIGHT, TITLE_HEIGHT = 8.0, 3.3, 0.35  # inches
DPI = 80
RIGHT, TOO_SURE, TOO_SHY, QUIET = "#2f6fb3", "#d9857f", "#8fc1ea", "#6b6b6b"


def write_diagrams(path: Path, temperatures: Mapping[str, Temperature]) -> Path | None:
    """Draw the bins before and after of each temperature, a row for all the variants that share it.

    ``temperatures`` are by the variants' names. Return the PNG's path; it is replaced as a whole, or removed and None
    returned where there is no temperature.
    """
    if not temperatures:
        path.unlink(missing_ok=True)  # it would be an earlier export's
        return None
    variants: dict[Temperature, list[str]] = {}
    for name, found in temperatures.items():
        variants.setdefault(found, []).append(name)
    figure = Figure(figsize=(WIDTH, (ROW_HEIGHT + TITLE_HEIGHT) * len(variants)))
    FigureCanvasAgg(figure)
    rows = figure.subfigures(len(variants), 1, squeeze=False)[:, 0]
    for place, (found, names) in zip(rows, variants.items(), strict=True):
        title = f"{', '.join(names)}: {found.images:,} images"
        place.text(0.015, 0.965, title, size=11, weight="bold", va="center", parse_math=False)
        grid = place.add_gridspec(2, 2, height_ratios=(3.2, 1))
        grid.update(left=0.075, right=0.985, top=0.84, bottom=0.13, hspace=0.12, wspace=0.2)
        sides = (
            ("as the model says it", found.before, found.error_before),
            (f"at temperature {found.value:.2f}", found.after, found.error_after),
        )
        for column, (what, bins, error) in enumerate(sides):
            above, below = (place.add_subplot(grid[row, column]) for row in (0, 1))
            _draw_bins(above, bins)
            above.set_title(f"{what}: calibration error {100 * error:.1f} %", size=9, color=QUIET, loc="left")
            _draw_counts(below, bins)
    with replacing(path, suffix=".png") as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(partial, dpi=DPI, metadata={"Software": None})
    return path


def _draw_bins(axis: Axes, bins: Sequence[ReliabilityBin]) -> None:
    """Draw each bin's accuracy, and over or under it what its mean probability promised more or less."""
    width = 1 / len(bins)
    shown = [(number * width, item) for number, item in enumerate(bins) if item.images]
    places = [place for place, _ in shown]
    style: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 0.6}
    axis.bar(places, [item.accuracy for _, item in shown], color=RIGHT, **style)
    gaps = [item.confidence - item.accuracy for _, item in shown]
    colors = [TOO_SURE if gap > 0 else TOO_SHY for gap in gaps]
    # over the accuracy what is missing, and in its upper part what is more than promised
    axis.bar(places, gaps, bottom=[item.accuracy for _, item in shown], color=colors, **style)
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle="--")
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[])
    _finish(axis)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_ylabel("right", size=8, color=QUIET, labelpad=2)
    for color, text, height in ((TOO_SURE, "surer than right", 0.91), (TOO_SHY, "less sure than right", 0.81)):
        axis.add_patch(Rectangle((0.03, height), 0.02, 0.06, color=color))
        axis.text(0.065, height, text, color=QUIET, size=7)


def _draw_counts(axis: Axes, bins: Sequence[ReliabilityBin]) -> None:
    width = 1 / len(bins)
    most = max(item.images for item in bins)
    places = [number * width for number in range(len(bins))]
    axis.bar(places, [item.images for item in bins], width, align="edge", color=QUIET, edgecolor="white")
    for number, item in enumerate(bins):
        if item.images:
            axis.text((number + 0.5) * width, item.images + 0.04 * most, str(item.images), ha="center", size=6)
    axis.set(xlim=(0, 1), ylim=(0, 1.3 * most))
    axis.set_xlabel("probability of the first label", size=8, color=QUIET, labelpad=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_ylabel("images", size=8, color=QUIET)
    _finish(axis)
    axis.set_yticks([])


def _finish(axis: Axes) -> None:
    axis.tick_params(labelsize=7, length=2)
    axis.spines[["top", "right"]].set_visible(False)
