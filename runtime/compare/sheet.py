"""Draw a contact sheet: small pictures in rows, with coloured lines of text below each."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..canvas.pictures import Box, fit
from ..canvas.text import Color, Pixels, default_font
from ..errors import UsageError
from ..opencv import cv2
from ..storage import replacing

__all__ = ["GREEN", "INK", "RED", "Cell", "Line", "draw_sheet", "thumbnail", "write_sheet"]

PAPER: Color = (255, 255, 255)
INK: Color = (40, 40, 40)
QUIET: Color = (120, 120, 120)
GREEN: Color = (45, 125, 25)
RED: Color = (40, 40, 205)

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
MARGIN = 8  # pixels around everything
GAP = 20  # pixels between cells
SIZE = 13  # pixels, the size of text
STEP = 17  # pixels from line to line
TITLE = 17
HEAD = 56  # pixels for two lines above the cells


@dataclass(frozen=True)
class Line:
    """This is a line below a picture, with text at its left and at its right, one of which may be empty."""

    left: str
    right: str = ""
    color: Color = INK


@dataclass(frozen=True, eq=False)
class Cell:
    """This is a picture, (H, W, 3) uint8 BGR of any size, and the lines below it."""

    picture: Pixels
    lines: tuple[Line, ...]


def thumbnail(image: Pixels, side: int) -> Pixels:
    """Return a copy of an image, (H, W, 3) uint8 BGR, no larger than ``side`` pixels each way."""
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image.copy()
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def draw_sheet(
    cells: Sequence[Cell], title: str, note: str = "", *, columns: int = 6, picture: int = 128, width: int = 176
) -> Pixels:
    """Draw cells in rows under a title.

    Args:
        cells: the cells in their order; the one with the most lines sets the height of all.
        title: the first line of text, bold.
        note: the second line, smaller.
        columns: cells a row; fewer cells make a narrower sheet, never so narrow that the title is cut.
        picture: the height of the pictures, pixels.
        width: the width of a cell, pixels.

    Returns:
        The sheet, (H, W, 3) uint8 BGR.
    """
    lines = max((len(cell.lines) for cell in cells), default=0)
    height = picture + lines * STEP + 2 * MARGIN
    columns = min(columns, max(len(cells), 1))
    bold, font = default_font(600), default_font()
    needed = max(bold.width(bold.drawable(title), TITLE), font.width(font.drawable(note), SIZE)) + 2 * MARGIN
    size = max(2 * MARGIN + columns * width - GAP, needed), HEAD + -(-len(cells) // columns) * height
    sheet = np.full((size[1], size[0], 3), PAPER, np.uint8)
    bold.draw(sheet, bold.drawable(title), (MARGIN, 24), TITLE, INK)
    font.draw(sheet, font.drawable(note), (MARGIN, 44), SIZE, QUIET)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        _draw(Box(MARGIN + column * width, HEAD + row * height, width - GAP, height).of(sheet), cell, picture)
    return sheet


def write_sheet(path: Path, pixels: Pixels) -> None:
    """Write a sheet, (H, W, 3) uint8 BGR, as PNG; the file is replaced as a whole.

    Raises:
        UsageError: writing there is not allowed.
    """
    done, data = cv2.imencode(".png", pixels)
    assert done  # noqa: S101  # of an array of ours in memory
    try:
        with replacing(path) as partial:
            partial.write_bytes(data.tobytes())
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
        raise UsageError(
            f"{path}: expected a place for the contact sheet, found: {error.strerror or error}; name another one with "
            "--sheet FILE.png"
        ) from None


def _draw(place: Pixels, cell: Cell, picture: int) -> None:
    width = place.shape[1]
    fit(cell.picture, place[:picture])
    font = default_font()
    for number, line in enumerate(cell.lines, start=1):
        baseline = picture + number * STEP
        right = font.cut(line.right, SIZE, width)
        taken = font.width(right, SIZE)
        left = font.cut(line.left, SIZE, width - taken - (MARGIN if right else 0))
        font.draw(place, left, (0, baseline), SIZE, line.color)
        font.draw(place, right, (width - taken, baseline), SIZE, line.color)
