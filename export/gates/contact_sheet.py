"""Draws a contact sheet of the images whose first label a variant changed, to look into a gate's refusal."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...runtime.errors import ImageError
from ...runtime.opencv import cv2
from ...runtime.preprocess import Frame, read_image
from ...runtime.storage import replacing
from .comparison import Flip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MAX_IMAGES", "write_flips"]

MAX_IMAGES = 48
COLUMNS = 6
CELL = (1.95, 2.6)  # inches: width, height
PICTURE = 1.69  # inches: the longer side of a thumbnail
HEADER = 0.75
DPI = 110
THUMBNAIL_SIDE = 160  # pixels of a thumbnail's longer side
MAX_LABEL_LENGTH = 18  # characters of a label in a cell
RIGHT, WRONG, UNKNOWN, QUIET = "#1a7f37", "#c0362c", "#222222", "#6b6b6b"
UNREADABLE = np.full((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), 225, np.uint8)


def write_flips(path: Path, flips: Sequence[Flip], variant: str, images: int) -> Path | None:
    """Draw the flipped images with their true label, Keras's answer and the variant's.

    Args:
        path: the PNG to write; it is replaced as a whole, or removed where nothing flipped.
        flips: the flipped images, the worst first, as ``run_gate`` gives them; the first 48 are drawn.
        variant: the variant's name.
        images: how many images were compared.

    Returns:
        The path, or None where nothing flipped.
    """
    if not flips:
        path.unlink(missing_ok=True)  # it would be an earlier export's
        return None
    shown = flips[:MAX_IMAGES]
    rows = -(-len(shown) // COLUMNS)
    columns = min(COLUMNS, max(len(shown), 3))  # fewer than three are too narrow for the title
    height = rows * CELL[1] + HEADER
    figure = Figure(figsize=(columns * CELL[0], height))
    FigureCanvasAgg(figure)
    _write_title(figure, height, variant, len(flips), images)
    for number, flip in enumerate(shown):
        row, column = divmod(number, columns)
        bottom = (height - HEADER - (row + 1) * CELL[1]) / height
        cell = (column / columns, bottom, 1 / columns, CELL[1] / height)
        _draw(figure.add_axes(cell), flip, variant.partition("-")[0].upper())
    with replacing(path, suffix=".png") as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a script that the font lacks: boxes, not a page of warnings
        figure.savefig(partial, dpi=DPI, metadata={"Software": None})
    return path


def _write_title(figure: Figure, height: float, variant: str, flips: int, images: int) -> None:
    left = 0.13 / figure.get_figwidth()
    share = f"{flips} of {images} images with another first label than Keras's"
    figure.text(left, 1 - 0.28 / height, variant, size=12, weight="bold", va="center", parse_math=False)
    rest = f"; the first {MAX_IMAGES} are shown, {flips - MAX_IMAGES} more are not" if flips > MAX_IMAGES else ""
    note = f"{share}, the widest margin first{rest}"
    figure.text(left, 1 - 0.55 / height, note, size=8.5, color=QUIET, va="center", parse_math=False)


def _draw(axis: Axes, flip: Flip, precision: str) -> None:
    """Draw one image's cell, in inches from its lower left corner."""
    axis.set(xlim=(0, CELL[0]), ylim=(0, CELL[1]))
    axis.axis("off")
    frame = _thumbnail(flip.image.path)
    height, width = (side / THUMBNAIL_SIDE * PICTURE for side in frame.shape[:2])
    left, bottom = (CELL[0] - width) / 2, 0.91 + (PICTURE - height) / 2
    axis.imshow(frame, extent=(left, left + width, bottom, bottom + height), aspect="auto", interpolation="antialiased")
    axis.set(xlim=(0, CELL[0]), ylim=(0, CELL[1]))
    true = flip.image.label
    _write(axis, 0.76, "true", true or "unknown", "", UNKNOWN)
    _write(axis, 0.56, "Keras", flip.keras_label, f"{flip.keras_probability:.0%}", _color(flip.keras_label, true))
    _write(
        axis, 0.36, precision, flip.variant_label, f"{flip.variant_probability:.0%}", _color(flip.variant_label, true)
    )


def _write(axis: Axes, height: float, who: str, label: str, probability: str, color: str) -> None:
    label = label if len(label) <= MAX_LABEL_LENGTH else f"{label[: MAX_LABEL_LENGTH - 1]}…"
    common: dict[str, Any] = {"size": 7, "va": "center", "parse_math": False}
    axis.text(0.13, height, who, color=QUIET, **common)
    axis.text(0.47, height, label, color=color, **common)
    axis.text(CELL[0] - 0.13, height, probability, color=color, ha="right", **common)


def _color(label: str, true: str) -> str:
    if not true:
        return UNKNOWN
    return RIGHT if label == true else WRONG


def _thumbnail(path: Path) -> Frame:
    """Read an image as RGB and scale its longer side to a thumbnail's."""
    try:
        frame = read_image(path)
    except ImageError:  # it is gone since it was compared: the sheet has a gray square for it
        return UNREADABLE
    height, width = frame.shape[:2]
    factor = THUMBNAIL_SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resized = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), np.uint8)
