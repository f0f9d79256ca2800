"""Draw what the window shows: the canvas, above it what the models see, and beside it what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..canvas.draw import ACCENT, DIM, TEXT, TRACK, Box, canvas, fill
from ..canvas.text import Color, Pixels, default_font
from ..classifier import Prediction
from ..console import percent
from ..opencv import cv2
from .canvas import SIDE
from .models import Answer

__all__ = ["CANVAS", "HEIGHT", "TITLE", "WIDTH", "View", "draw_page"]

TITLE = "hybrid-draw"
AREA = 600  # pixels, the part of the window with the canvas in its middle
PANEL = 340
WIDTH, HEIGHT = AREA + PANEL, AREA
MARGIN = (AREA - SIDE) // 2
CANVAS = Box(MARGIN, MARGIN, SIDE, SIDE)
SEEN_SCALE = 3  # the 28 x 28 frame is shown at 84 pixels
GAP = 12
BOLD = 600
MOST_ROWS = 10
LEAST_STEP, LARGEST_STEP = 11, 24  # pixels a row: digits under 9 pixels can't be read
HEADING, BETWEEN = 30, 6  # pixels, with which all ten digits of four models have room
FAINT: Color = (116, 109, 103)
SHOWN = 0.0005  # probabilities under it would be printed as 0.0 %
KEYS = (
    "left button draws, right erases, wheel or +/- thickness",
    "C clears   P predicts   L live   S saves   Q quits",
)
WAITING = "draw a digit, then press P"


@dataclass(frozen=True)
class View:
    """This view holds what there is to show.

    Attributes:
        ink: the canvas, (400, 400) uint8.
        frame: what the models see, (28, 28) uint8; None while nothing is drawn.
        names: each model's name and variant, from top to bottom; at most ``MOST_BUNDLES``.
        answers: the answers in the same order; empty before the first prediction.
        outdated: whether the answers are about another frame; they are then shown in gray.
        thickness: the thickness of the brush, pixels.
        live: whether the models are asked while drawing.
        pointer: where the mouse is on the canvas (x, y), or None.
        message: a text about what happened last.
    """

    ink: npt.NDArray[np.uint8]
    frame: npt.NDArray[np.uint8] | None
    names: Sequence[tuple[str, str]]
    answers: Sequence[Answer] = ()
    outdated: bool = False
    thickness: int = 15
    live: bool = False
    pointer: tuple[int, int] | None = None
    message: str = ""


def draw_page(view: View) -> Pixels:
    """Return the window's picture, (600, 940, 3) uint8 BGR."""
    page = canvas(WIDTH, HEIGHT)
    _draw_canvas(CANVAS.of(page), view)
    _draw_seen(page, view.frame)
    _draw_text(page, view)
    _draw_answers(page[:, AREA : WIDTH - GAP], view)
    return page


def _draw_canvas(pixels: Pixels, view: View) -> None:
    pixels[:] = view.ink[:, :, None]
    if view.pointer is not None:
        cv2.circle(pixels, view.pointer, max(view.thickness // 2, 1), ACCENT, 1, cv2.LINE_AA)


def _draw_seen(page: Pixels, frame: npt.NDArray[np.uint8] | None) -> None:
    side = 28 * SEEN_SCALE
    place = Box(CANVAS.x + SIDE - side, (MARGIN - side) // 2, side, side).of(page)
    fill(place, (0, 0, 0))
    if frame is not None:
        place[:] = cv2.resize(frame, (side, side), interpolation=cv2.INTER_NEAREST)[:, :, None]


def _draw_text(page: Pixels, view: View) -> None:
    font, bold = default_font(), default_font(BOLD)
    right = CANVAS.x + SIDE - 28 * SEEN_SCALE - GAP
    note = "what the models see, 28 x 28"
    font.draw(page, note, (right - font.width(note, 13), 56), 13, DIM)
    title = "live" if view.live else TITLE
    bold.draw(page, title, (CANVAS.x, 56), 16, ACCENT if view.live else TEXT)
    below = CANVAS.y + SIDE
    for number, line in enumerate(KEYS):
        font.draw(page, line, (CANVAS.x, below + 26 + 20 * number), 14, DIM)
    last = f"brush {view.thickness}" + (f"   {view.message}" if view.message else "")
    font.draw(page, font.cut(last, 14, SIDE), (CANVAS.x, below + 70), 14, TEXT)


@dataclass(frozen=True)
class _Tones:
    """These are the colours of an answer: of its label, of the best row's bar and text, and of the other rows."""

    label: Color = ACCENT
    bar: Color = ACCENT
    text: Color = TEXT
    rest: Color = DIM


OUTDATED = _Tones(label=FAINT, bar=FAINT, text=FAINT, rest=FAINT)


def _draw_answers(panel: Pixels, view: View) -> None:
    """Draw a block for each model, as high as their number allows."""
    block = (HEIGHT - GAP) // len(view.names)
    tones = OUTDATED if view.outdated else _Tones()
    for number, (name, variant) in enumerate(view.names):
        place = panel[GAP + number * block :][: block - BETWEEN]
        answer = view.answers[number] if number < len(view.answers) else None
        _draw_heading(place[:HEADING], name, variant, answer, tones)
        if answer is not None:
            _draw_bars(place[HEADING:], answer, tones)
        elif number == 0:
            text = default_font().cut(WAITING, 14, panel.shape[1])
            default_font().draw(place, text, (0, HEADING + 18), 14, DIM)


def _draw_heading(pixels: Pixels, name: str, variant: str, answer: Answer | None, tones: _Tones) -> None:
    font, bold = default_font(), default_font(BOLD)
    said = "" if answer is None else bold.cut(answer.prediction.label, 26, pixels.shape[1] // 2)
    taken = bold.width(said, 26)
    if said:
        bold.draw(pixels, said, (pixels.shape[1] - taken, 25), 26, tones.label)
    room = pixels.shape[1] - taken - GAP
    name = bold.cut(name, 16, room)
    bold.draw(pixels, name, (0, 22), 16, TEXT)
    start = bold.width(name, 16) + GAP
    font.draw(pixels, font.cut(variant, 13, max(room - start, 0)), (start, 22), 13, DIM)


def _rows(prediction: Prediction, height: int) -> list[tuple[str, float]]:
    """Return all labels in their own order, so that models can be compared; the best ones where not all have room."""
    most = min(MOST_ROWS, height // LEAST_STEP)
    if len(prediction.labels) > most:
        return prediction.top(most)
    return list(zip(prediction.labels, map(float, prediction.probabilities), strict=True))


def _draw_bars(pixels: Pixels, answer: Answer, tones: _Tones) -> None:
    """Draw a row for each label that has room: label, bar and percentage."""
    prediction = answer.prediction
    rows = _rows(prediction, pixels.shape[0])
    step = min(pixels.shape[0] // len(rows), LARGEST_STEP)
    size = min(step - 2, 15)
    font = default_font()
    column = min(max(font.width(font.drawable(label), size) for label, _ in rows), pixels.shape[1] // 3)
    number = font.width("100.0 %", size)
    left, right = column + GAP, pixels.shape[1] - number - GAP
    for row, (label, probability) in enumerate(rows):
        line = pixels[row * step : (row + 1) * step]
        best = label == prediction.label
        color = tones.text if best else tones.rest
        baseline = (step + round(size * 0.7)) // 2
        font.draw(line, font.cut(label, size, column), (0, baseline), size, color)
        bar = line[step // 4 : step - step // 4, left:right]
        fill(bar, TRACK)
        fill(bar[:, : round(bar.shape[1] * min(max(probability, 0.0), 1.0))], tones.bar if best else tones.rest)
        if best or probability >= SHOWN:
            shown = percent(probability)
            font.draw(line, shown, (pixels.shape[1] - font.width(shown, size), baseline), size, color)
