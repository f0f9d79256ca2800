"""Keep the images on which models differ, and draw them as a contact sheet: pictures in rows, text below each."""

from __future__ import annotations

import errno
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..canvas.pictures import Box, fit
from ..canvas.text import Color, Pixels, default_font
from ..console import percent
from ..errors import UsageError
from ..opencv import cv2
from ..storage import write_bytes
from .answers import Answers

__all__ = ["GREEN", "RED", "Cell", "Differences", "Line", "check_sheet", "draw_sheet", "write_sheet"]

PAPER: Color = (255, 255, 255)
INK: Color = (40, 40, 40)
QUIET: Color = (120, 120, 120)
GREEN: Color = (45, 125, 25)
RED: Color = (40, 40, 205)

MAX_PICTURES = 60
PICTURE_SIDE = 128  # pixels, the longer side of a kept picture
MARGIN = 8  # pixels around everything
CELL_GAP = 20  # pixels
TITLE_SIZE, TEXT_SIZE = 17, 13  # pixels
LINE_STEP = 17  # pixels from line to line
HEAD_HEIGHT = 56  # pixels for two lines above the cells


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


class Differences:
    """This class counts the images on which models differ, and keeps the ``most`` surest contradictions as pictures."""

    def __init__(self, most: int = MAX_PICTURES) -> None:
        self.count = 0
        self._most = most
        self._kept: list[tuple[float, int, Cell]] = []  # a heap: the least sure contradiction first

    def add(self, answers: Answers) -> None:
        """Count and perhaps keep an image on which the models differ; others are passed over."""
        if answers.same:
            return
        self.count += 1
        # of two equally sure contradictions the earlier is kept
        heapq.heappush(self._kept, (answers.contradiction, -self.count, _cell(answers)))
        if len(self._kept) > self._most:
            heapq.heappop(self._kept)

    def write(self, path: Path, images: int) -> None:
        """Draw the sheet, the surest contradictions first.

        Args:
            path: the PNG to write.
            images: the number of images that were compared.

        Raises:
            UsageError: writing there is not allowed.
        """
        cells = [cell for *_, cell in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]
        more = f", the first {len(cells)} of them" if self.count > len(cells) else ""
        title = f"{self.count} of {images} images on which the models differ"
        write_sheet(path, draw_sheet(cells, title, f"the surest contradictions first{more}"))


def check_sheet(path: Path) -> None:
    """Refuse a sheet that can't be written there, which would otherwise be told after the last image.

    Raises:
        UsageError: the name is not that of a PNG, or its folder does not exist.
    """
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UsageError(f"--sheet: expected the name of a PNG to write, found {path}; name one as in differences.png")
    if not path.parent.is_dir():
        raise UsageError(f"--sheet: expected the folder {path.parent} to exist, found none; create it")


def draw_sheet(
    cells: Sequence[Cell],
    title: str,
    note: str = "",
    *,
    columns: int = 6,
    picture: int = PICTURE_SIDE,
    width: int = 176,
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
    height = picture + lines * LINE_STEP + 2 * MARGIN
    columns = min(columns, max(len(cells), 1))
    bold, font = default_font(600), default_font()
    title, note = bold.drawable(title), font.drawable(note)
    text_width = max(bold.width(title, TITLE_SIZE), font.width(note, TEXT_SIZE)) + 2 * MARGIN
    sheet_width = max(2 * MARGIN + columns * width - CELL_GAP, text_width)
    sheet = np.full((HEAD_HEIGHT + -(-len(cells) // columns) * height, sheet_width, 3), PAPER, np.uint8)
    bold.draw(sheet, title, (MARGIN, 24), TITLE_SIZE, INK)
    font.draw(sheet, note, (MARGIN, 44), TEXT_SIZE, QUIET)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        place = Box(MARGIN + column * width, HEAD_HEIGHT + row * height, width - CELL_GAP, height)
        _draw_cell(place.view(sheet), cell, picture)
    return sheet


def write_sheet(path: Path, pixels: Pixels) -> None:
    """Write a sheet, (H, W, 3) uint8 BGR, as PNG; the file is replaced as a whole.

    Raises:
        UsageError: writing there is not allowed.
    """
    _, data = cv2.imencode(".png", pixels)
    try:
        write_bytes(path, data.tobytes())
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        raise UsageError(
            f"{path}: expected a place for the contact sheet, found: {error.strerror or error}; name another one with "
            "--sheet FILE.png"
        ) from None


def _cell(answers: Answers) -> Cell:
    lines = [Line(f"true: {answers.truth}")] if answers.truth is not None else []
    for name, prediction in answers.predictions.items():
        color = INK if answers.truth is None else GREEN if prediction.label == answers.truth else RED
        lines.append(Line(f"{name}: {prediction.label}", percent(prediction.probability), color))
    return Cell(_thumbnail(np.asarray(answers.frame.image)), tuple(lines))


def _thumbnail(image: Pixels) -> Pixels:
    """Return a copy of an image, (H, W, 3) uint8 BGR, no larger than ``PICTURE_SIDE`` pixels each way."""
    factor = PICTURE_SIDE / max(image.shape[:2])
    if factor >= 1:
        return image.copy()
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _draw_cell(place: Pixels, cell: Cell, picture: int) -> None:
    width = place.shape[1]
    fit(cell.picture, place[:picture])
    font = default_font()
    for number, line in enumerate(cell.lines, start=1):
        baseline = picture + number * LINE_STEP
        right = font.cut(line.right, TEXT_SIZE, width)
        taken = font.width(right, TEXT_SIZE)
        left = font.cut(line.left, TEXT_SIZE, width - taken - (MARGIN if right else 0))
        font.draw(place, left, (0, baseline), TEXT_SIZE, line.color)
        font.draw(place, right, (width - taken, baseline), TEXT_SIZE, line.color)
