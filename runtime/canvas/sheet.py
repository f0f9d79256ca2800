"""Draws a contact sheet: small pictures in rows, with coloured lines of text below each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..console import percent
from ..frame import Pixels
from ..opencv import cv2
from ..storage import write_bytes
from .pictures import Box, fit
from .text import BOLD, Color, default_font

PAPER: Color = (255, 255, 255)
DARK_INK: Color = (40, 40, 40)
QUIET_INK: Color = (120, 120, 120)
GREEN: Color = (45, 125, 25)
RED: Color = (40, 40, 205)

PICTURE_SIDE = 128  # pixels, the longer side of a picture
SHEET_MARGIN = 8  # pixels around everything
CELL_WIDTH = 176  # pixels, with the gap to the next
CELL_GAP = 20  # pixels
MAX_COLUMNS = 6
TITLE_SIZE, TEXT_SIZE = 17, 13  # pixels
LINE_STEP = 17  # pixels from line to line
HEAD_HEIGHT = 56  # pixels for two lines above the cells


@dataclass(frozen=True)
class Line:
    """This is a line below a picture, with text at its left and at its right, one of which may be empty."""

    left: str
    right: str = ""
    color: Color = DARK_INK


@dataclass(frozen=True, eq=False)
class Cell:
    """This is a picture, (H, W, 3) uint8 BGR of any size, and the lines below it."""

    picture: Pixels
    lines: tuple[Line, ...]


def thumbnail(image: Pixels) -> Pixels:
    """Return a copy of an image, (H, W, 3) uint8 BGR, no larger than ``PICTURE_SIDE`` pixels each way."""
    factor = min(PICTURE_SIDE / max(image.shape[:2]), 1)
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    return np.array(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def answer_cell(picture: Pixels, truth: str | None, answers: Iterable[tuple[str, str, float]]) -> Cell:
    """Return a picture over each model's name, label and probability, coloured by whether that is the truth."""
    lines = [Line(f"true: {truth}")] if truth is not None else []
    for name, label, probability in answers:
        color = DARK_INK if truth is None else GREEN if label == truth else RED
        lines.append(Line(f"{name}: {label}", percent(probability), color))
    return Cell(picture, tuple(lines))


def write_sheet(path: Path, cells: Sequence[Cell], title: str, note: str) -> None:
    """Write a sheet as a PNG, which is replaced as a whole, or raise OSError."""
    write_bytes(path, cv2.imencode(".png", draw_sheet(cells, title, note))[1].tobytes())


def draw_sheet(cells: Sequence[Cell], title: str, note: str = "") -> Pixels:
    """Draw cells in rows of six under a bold title and a smaller note, and return (H, W, 3) uint8 BGR.

    The cell with the most lines sets the height of all. Fewer cells make a narrower sheet, never so narrow that the
    title is cut.
    """
    lines = max((len(cell.lines) for cell in cells), default=0)
    height = PICTURE_SIDE + lines * LINE_STEP + 2 * SHEET_MARGIN
    columns = min(MAX_COLUMNS, max(len(cells), 1))
    bold, font = default_font(BOLD), default_font()
    title, note = bold.drawable(title), font.drawable(note)
    text_width = max(bold.width(title, TITLE_SIZE), font.width(note, TEXT_SIZE)) + 2 * SHEET_MARGIN
    sheet_width = max(2 * SHEET_MARGIN + columns * CELL_WIDTH - CELL_GAP, text_width)
    sheet = np.full((HEAD_HEIGHT + -(-len(cells) // columns) * height, sheet_width, 3), PAPER, np.uint8)
    bold.draw(sheet, title, (SHEET_MARGIN, 24), TITLE_SIZE, DARK_INK)
    font.draw(sheet, note, (SHEET_MARGIN, 44), TEXT_SIZE, QUIET_INK)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        place = Box(SHEET_MARGIN + column * CELL_WIDTH, HEAD_HEIGHT + row * height, CELL_WIDTH - CELL_GAP, height)
        _draw_cell(place.view(sheet), cell)
    return sheet


def _draw_cell(place: Pixels, cell: Cell) -> None:
    width = place.shape[1]
    fit(cell.picture, place[:PICTURE_SIDE])
    font = default_font()
    for number, line in enumerate(cell.lines, start=1):
        baseline = PICTURE_SIDE + number * LINE_STEP
        right = font.cut(line.right, TEXT_SIZE, width)
        taken = font.width(right, TEXT_SIZE)
        left = font.cut(line.left, TEXT_SIZE, width - taken - (SHEET_MARGIN if right else 0))
        font.draw(place, left, (0, baseline), TEXT_SIZE, line.color)
        font.draw(place, right, (width - taken, baseline), TEXT_SIZE, line.color)
