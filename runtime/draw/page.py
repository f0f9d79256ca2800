"""Draws what the window shows: the paper, above it what the models see, and beside it what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..canvas.pictures import ACCENT, DIM, TEXT, TRACK, Box, blank, fill
from ..canvas.text import BOLD, Color, default_font
from ..classifier import Prediction
from ..console import percent
from ..frame import Pixels
from ..opencv import cv2
from .paper import PAPER_SIDE
from .readers import Reading

TITLE = "hybrid-draw"
AREA = 600  # pixels, the part of the window with the paper in its middle
PANEL = 340  # pixels, the width of the part with the answers
WIDTH, HEIGHT = AREA + PANEL, AREA
MARGIN = (AREA - PAPER_SIDE) // 2
PAPER_BOX = Box(MARGIN, MARGIN, PAPER_SIDE, PAPER_SIDE)
SEEN_SCALE = 3  # the 28 x 28 frame is shown at 84 pixels
PART_GAP = 12  # pixels between parts
MAX_ROWS = 10
MIN_STEP, MAX_STEP = 11, 24  # pixels a row: digits under 9 pixels can't be read
HEADING, BLOCK_GAP = 30, 6  # pixels, with which all ten digits of four models have room
FAINT: Color = (116, 109, 103)
MIN_SHOWN = 0.0005  # probabilities under it would be printed as 0.0 %
KEY_HELP = (
    "left button draws, right erases, wheel or +/- thickness",
    "C clears   P predicts   L live   S saves   Q quits",
)
INVITATION = "draw a digit, then press P"


@dataclass(frozen=True)
class View:
    """What there is to show in the window.

    Attributes:
        ink: the paper, (400, 400) uint8.
        frame: what the models see, (28, 28) uint8; None while nothing is drawn.
        names: each model's name and variant, from top to bottom; at most ``MAX_BUNDLES``.
        readings: the answers in the same order; empty before the first prediction.
        outdated: whether the answers are about another frame; they are then shown in gray.
        pointer: where the mouse is on the paper (x, y), or None.
    """

    ink: npt.NDArray[np.uint8]
    frame: npt.NDArray[np.uint8] | None
    names: Sequence[tuple[str, str]]
    readings: Sequence[Reading] = ()
    outdated: bool = False
    thickness: int = 15
    live: bool = False
    pointer: tuple[int, int] | None = None
    message: str = ""


def draw_page(view: View) -> Pixels:
    """Return the window's picture, (600, 940, 3) uint8 BGR."""
    page = blank(WIDTH, HEIGHT)
    _draw_paper(PAPER_BOX.view(page), view)
    _draw_seen(page, view.frame)
    _draw_text(page, view)
    _draw_readings(page[:, AREA : WIDTH - PART_GAP], view)
    return page


def _draw_paper(pixels: Pixels, view: View) -> None:
    pixels[:] = view.ink[:, :, None]
    if view.pointer is not None:
        cv2.circle(pixels, view.pointer, max(view.thickness // 2, 1), ACCENT, 1, cv2.LINE_AA)


def _draw_seen(page: Pixels, frame: npt.NDArray[np.uint8] | None) -> None:
    side = 28 * SEEN_SCALE
    area = Box(PAPER_BOX.x + PAPER_SIDE - side, (MARGIN - side) // 2, side, side).view(page)
    fill(area, (0, 0, 0))
    if frame is not None:
        area[:] = cv2.resize(frame, (side, side), interpolation=cv2.INTER_NEAREST)[:, :, None]


def _draw_text(page: Pixels, view: View) -> None:
    font, bold = default_font(), default_font(BOLD)
    right = PAPER_BOX.x + PAPER_SIDE - 28 * SEEN_SCALE - PART_GAP
    note = "what the models see, 28 x 28"
    font.draw(page, note, (right - font.width(note, 13), 56), 13, DIM)
    title = "live" if view.live else TITLE
    bold.draw(page, title, (PAPER_BOX.x, 56), 16, ACCENT if view.live else TEXT)
    below = PAPER_BOX.y + PAPER_SIDE
    for number, line in enumerate(KEY_HELP):
        font.draw(page, line, (PAPER_BOX.x, below + 26 + 20 * number), 14, DIM)
    last = f"brush {view.thickness}" + (f"   {view.message}" if view.message else "")
    font.draw(page, font.cut(last, 14, PAPER_SIDE), (PAPER_BOX.x, below + 70), 14, TEXT)


@dataclass(frozen=True)
class _Tones:
    """This class holds an answer's colours: of its label, of the best row's bar and text, and of the other rows."""

    label: Color = ACCENT
    bar: Color = ACCENT
    text: Color = TEXT
    rest: Color = DIM


OUTDATED = _Tones(label=FAINT, bar=FAINT, text=FAINT, rest=FAINT)


def _draw_readings(panel: Pixels, view: View) -> None:
    """Draw a block for each model, as high as their number allows."""
    block = (HEIGHT - PART_GAP) // len(view.names)
    tones = OUTDATED if view.outdated else _Tones()
    for number, (name, variant) in enumerate(view.names):
        area = panel[PART_GAP + number * block :][: block - BLOCK_GAP]
        reading = view.readings[number] if number < len(view.readings) else None
        _draw_heading(area[:HEADING], name, variant, reading, tones)
        if reading is not None:
            _draw_bars(area[HEADING:], reading.prediction, tones)
        elif number == 0:
            text = default_font().cut(INVITATION, 14, panel.shape[1])
            default_font().draw(area, text, (0, HEADING + 18), 14, DIM)


def _draw_heading(pixels: Pixels, name: str, variant: str, reading: Reading | None, tones: _Tones) -> None:
    font, bold = default_font(), default_font(BOLD)
    label = "" if reading is None else bold.cut(reading.prediction.label, 26, pixels.shape[1] // 2)
    label_width = bold.width(label, 26)
    if label:
        bold.draw(pixels, label, (pixels.shape[1] - label_width, 25), 26, tones.label)
    room = pixels.shape[1] - label_width - PART_GAP
    name = bold.cut(name, 16, room)
    bold.draw(pixels, name, (0, 22), 16, TEXT)
    start = bold.width(name, 16) + PART_GAP
    font.draw(pixels, font.cut(variant, 13, max(room - start, 0)), (start, 22), 13, DIM)


def _rows(prediction: Prediction, height: int) -> list[tuple[str, float]]:
    """Return all labels in their own order, so that models can be compared; the best ones where not all have room."""
    most = min(MAX_ROWS, height // MIN_STEP)
    if len(prediction.labels) > most:
        return prediction.top(most)
    return list(zip(prediction.labels, map(float, prediction.probabilities), strict=True))


def _draw_bars(pixels: Pixels, prediction: Prediction, tones: _Tones) -> None:
    """Draw a row for each label that has room: label, bar and percentage."""
    rows = _rows(prediction, pixels.shape[0])
    step = min(pixels.shape[0] // len(rows), MAX_STEP)
    size = min(step - 2, 15)
    font = default_font()
    column = min(max(font.width(font.drawable(label), size) for label, _ in rows), pixels.shape[1] // 3)
    number = font.width("100.0 %", size)
    left, right = column + PART_GAP, pixels.shape[1] - number - PART_GAP
    for row, (label, probability) in enumerate(rows):
        line = pixels[row * step : (row + 1) * step]
        best = label == prediction.label
        color = tones.text if best else tones.rest
        baseline = (step + round(size * 0.7)) // 2
        font.draw(line, font.cut(label, size, column), (0, baseline), size, color)
        bar = line[step // 4 : step - step // 4, left:right]
        fill(bar, TRACK)
        fill(bar[:, : round(bar.shape[1] * min(max(probability, 0.0), 1.0))], tones.bar if best else tones.rest)
        if best or probability >= MIN_SHOWN:
            shown = percent(probability)
            font.draw(line, shown, (pixels.shape[1] - font.width(shown, size), baseline), size, color)
