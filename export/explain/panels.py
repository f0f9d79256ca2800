"""Draws the picture of one image's way through a model, a PNG of panels.

From above to below they show:

the file, the model's input, the sequence
the CNN's feature maps                      (where the model has a CNN)
the recurrent branch's hidden state         (where it has one), and the answer after each step
the features that decide, and the answer
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...runtime.console import percent
from ...runtime.frame import Pixels
from ...runtime.preprocess import scaled_values
from ...runtime.spec import ModelSpec
from ...runtime.storage import replacing
from ...train.model import JOINS
from .insides import FeatureMaps, Insides, Recurrent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

Array = npt.NDArray[Any]

MAX_MAPS = 12  # feature maps shown of a layer
MAP_GAP = 0.06  # the gap between two maps, as a share of a map's width
MAX_UNITS = 48  # units shown of the hidden state
MAX_LINES = 5  # classes whose probabilities are drawn
MAX_TICKED_STEPS = 40  # steps; more have no room for a tick each
MAX_LABEL_LENGTH = 22
QUIET = "#6b6b6b"


def draw_input(place: SubFigure, insides: Insides) -> None:
    """Draw the file's picture, the model's input, and for a recurrent branch the input cut into timesteps."""
    recurrent = insides.recurrent
    axes = place.subplots(1, 4, width_ratios=(1, 1, 1, 1.3))
    place.subplots_adjust(left=0.02, right=0.98, top=0.9, bottom=0.12, wspace=0.12)
    height, width = insides.frame.shape[:2]
    _picture(axes[0], insides.frame[:, :, ::-1], f"the file, {width}×{height}")
    darkest, brightest = scaled_values(insides.spec.scaling)[[0, -1]]
    ends = " … ".join(f"{value:.3g}".replace("-", "−") for value in (darkest.min(), brightest.max()))
    image = (insides.image - darkest) / (brightest - darkest)
    _picture(axes[1], np.clip(image, 0, 1), f"the image, scaled to {ends}")
    if recurrent is None:
        for axis in axes[2:]:
            axis.axis("off")
        return
    colors = _step_colors(insides.spec.timesteps)
    rows = (recurrent.sequence - darkest.mean()) / (brightest.mean() - darkest.mean())
    _picture(axes[2], _tinted(rows, colors, insides.spec), "gray, each step in its colour")
    _picture(axes[3], rows[:, :, None] * colors[:, None, :], "the sequence: a row a step", aspect="auto")
    axes[3].set_ylabel("step", color=QUIET, size=8)
    axes[3].set_xlabel(f"value 1 … {rows.shape[1]}", color=QUIET, size=8)


def draw_feature_maps(place: SubFigure, maps: Sequence[FeatureMaps]) -> None:
    """Draw a strip of feature maps for each layer."""
    axes = np.atleast_1d(place.subplots(len(maps), 1))
    place.subplots_adjust(left=0.02, right=0.98, top=0.94, bottom=0.01, hspace=0.28)
    for axis, item in zip(axes, maps, strict=True):
        height, width, channels = item.values.shape
        axis.imshow(_strip(item.values), cmap="magma", interpolation="nearest", vmin=0, vmax=1)
        axis.axis("off")
        shown = f", {MAX_MAPS} shown" if channels > MAX_MAPS else ""
        text = f"{item.layer}: {channels} channels of {width}×{height}{shown}"
        axis.set_title(text, loc="left", size=8, color=QUIET, pad=3, parse_math=False)


def draw_recurrent(place: SubFigure, insides: Insides, recurrent: Recurrent) -> None:
    """Draw the hidden state as a heat map over the steps, and beside it the answer after each step."""
    states, answers = place.subplots(1, 2, width_ratios=(1.25, 1))
    place.subplots_adjust(left=0.03, right=0.865, top=0.9, bottom=0.16, wspace=0.14)
    steps, units = recurrent.hidden.shape
    shown = _liveliest(recurrent.hidden)
    limit = float(np.abs(shown).max()) or 1.0
    extent = (0.5, steps + 0.5, shown.shape[1] + 0.5, 0.5)
    drawn = states.imshow(
        shown.T, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest", extent=extent
    )
    place.colorbar(drawn, ax=states, pad=0.015).ax.tick_params(labelsize=7)
    some = f"{shown.shape[1]} of {units} units, those that change most" if shown.shape[1] < units else f"{units} units"
    states.set_title(f"hidden state: {some}, sorted by when they peak", size=8, color=QUIET, loc="left")
    states.set_yticks([])
    for axis in (states, answers):
        _step_axis(axis, steps)
    _draw_answers(answers, insides, recurrent.answers)


def _draw_answers(axis: Axes, insides: Insides, answers: Array) -> None:
    first = insides.ranking[0]
    order = [int(index) for index in np.argsort(-answers.max(axis=0), kind="stable") if index != first]
    steps = np.arange(1, len(answers) + 1)
    for number, index in enumerate([first, *order[: MAX_LINES - 1]]):
        style = {"linewidth": 2.5, "color": "#1f4e8c", "zorder": 3} if number == 0 else {"linewidth": 1.1}
        axis.plot(steps, answers[:, index], label=_shortened(insides.spec.class_labels[index]), **style)
    axis.set(xlim=(0.5, len(answers) + 0.5), ylim=(-0.02, 1.02))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ended = "both directions stopped" if insides.spec.cell == "bilstm" else "the sequence ended"
    axis.set_title(f"probability, had {ended} after this step", size=8, color=QUIET, loc="left")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    legend = axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1.02), borderaxespad=0.3)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _step_axis(axis: Axes, steps: int) -> None:
    axis.set_xlabel("step", color=QUIET, size=8)
    axis.tick_params(labelsize=7)
    axis.set_xticks(range(1, steps + 1, 1 if steps <= MAX_TICKED_STEPS else 10))


def _picture(axis: Axes, pixels: Pixels | Array, title: str, aspect: Literal["equal", "auto"] = "equal") -> None:
    axis.imshow(np.clip(pixels, 0, 1) if pixels.dtype != np.uint8 else pixels, aspect=aspect, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, size=8, color=QUIET, loc="left")


def _step_colors(steps: int) -> Array:
    """Return one colour for each step, (T, 3), every other one lighter, so that neighbours can be told apart."""
    colors = mpl.colormaps["turbo"](np.linspace(0.08, 0.92, steps))[:, :3]
    colors[1::2] = colors[1::2] * 0.55 + 0.45
    return np.asarray(colors)


def _tinted(rows: Array, colors: Array, spec: ModelSpec) -> Array:
    """Turn a sequence (T, S*S/T), 0 to 1, into the gray image again, (S, S, 3), each pixel in its step's colour."""
    tinted = (rows * 0.9 + 0.1)[:, :, None] * colors[:, None, :]
    size = spec.image_size
    if spec.sequence_order == "patches":
        side = math.isqrt(spec.timesteps)
        edge = size // side
        tinted = tinted.reshape(side, side, edge, edge, 3).transpose(0, 2, 1, 3, 4)
    return np.asarray(tinted.reshape(size, size, 3))


def _strip(values: Array) -> Array:
    """Put the channels of (H, W, C) that vary most side by side, in their order, with NaN between them."""
    height, width, channels = values.shape
    chosen = np.sort(np.argsort(-values.reshape(-1, channels).std(axis=0), kind="stable")[:MAX_MAPS])
    gap = np.full((height, max(round(width * MAP_GAP), 1)), np.nan)
    parts: list[Array] = []
    for channel in chosen:
        parts += [_stretched(values[:, :, channel]), gap]
    parts += [np.full((height, width), np.nan), gap] * (MAX_MAPS - len(chosen))
    return np.concatenate(parts[:-1], axis=1)


def _stretched(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / (high - low)) if high > low else np.zeros_like(values)


def _liveliest(hidden: Array) -> Array:
    """Choose the up to 48 units of (T, H) that vary most, sorted by the step at which each is farthest from zero."""
    chosen = np.argsort(-hidden.std(axis=0), kind="stable")[:MAX_UNITS]
    found = hidden[:, chosen]
    return np.asarray(found[:, np.argsort(np.abs(found).argmax(axis=0), kind="stable")])


def _shortened(label: str) -> str:
    return label if len(label) <= MAX_LABEL_LENGTH else f"{label[: MAX_LABEL_LENGTH - 1]}…"


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
    rows = _decision_rows(insides, chosen)
    grid = place.add_gridspec(len(rows) + 1, 2, width_ratios=(2.3, 1))
    grid.update(left=0.085, right=0.98, top=0.93, bottom=CAPTION_HEIGHT / _height(place), hspace=0.16, wspace=0.32)
    for number, (name, values, color) in enumerate(rows):
        _bars(place.add_subplot(grid[number, 0]), values, name, color)
    axis = place.add_subplot(grid[len(rows), 0])
    _bars(axis, evidence[chosen], "× weight", np.where(evidence[chosen] > 0, FOR, AGAINST))
    axis.set_xlabel(_sum(insides, first, second, len(chosen)), color=QUIET, size=8, parse_math=False)
    _draw_classes(place.add_subplot(grid[:, 1]), insides)


def _decision_rows(insides: Insides, chosen: Array) -> list[tuple[str, Array, Any]]:
    """Return the name, values and colours of each row of bars: the chosen features in the branches and joined."""
    cnn, recurrent, joined = insides.cnn, insides.recurrent, insides.joined[chosen]
    if cnn is None or recurrent is None:
        return [("CNN", joined, CNN) if recurrent is None else ("recurrent", joined, RECURRENT)]
    if insides.spec.merge == "concatenate":
        return [("CNN (blue), recurrent", joined, np.where(chosen < len(cnn), CNN, RECURRENT))]
    branches = [("CNN", cnn[chosen], CNN), ("recurrent", recurrent.vector[chosen], RECURRENT)]
    return [*branches, (JOINS[insides.spec.merge][0], joined, PRODUCT)]


def _height(place: SubFigure) -> float:
    return float(place.bbox.height / place.figure.dpi)


def _sum(insides: Insides, first: str, second: str, shown: int) -> str:
    evidence = insides.evidence
    gap = float(insides.logits[insides.ranking[0]] - insides.logits[insides.ranking[1]])
    sides = f"{_shortened(first)} (green) or {_shortened(second)} (red)"
    return (
        f"the {shown} of {len(evidence)} features that speak loudest for {sides};\n"
        f"all of them and the biases add up to {gap:.2f} between the two logits"
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


PICTURE_WIDTH = 12.0  # inches
PICTURE_DPI = 100
HEADER_HEIGHT = 0.35
MAP_ROW_HEIGHT = 1.32  # inches of a row of feature maps

Section = tuple[float, str, Callable[["SubFigure"], None]]


def write_picture(insides: Insides, name: str, path: Path) -> None:
    """Draw what the model was given, what each branch made of it, and how the answer came about.

    The PNG at ``path`` is replaced as a whole; ``name``, the image's, stands in its title.
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
        ended = "both directions stopped" if spec.cell == "bilstm" else "the image ended"
        title = f"What the recurrent branch sees: its hidden state step by step, and the answer had {ended} there"
        sections.append((3.2, title, lambda place: draw_recurrent(place, insides, recurrent)))
    both = insides.cnn is not None and recurrent is not None
    title = f"How the {JOINS[spec.merge][0]} of both branches decides" if both else "How the branch's output decides"
    height = 4.4 if both and spec.merge != "concatenate" else 3.0
    sections.append((height, title, lambda place: draw_decision(place, insides)))
    return sections
