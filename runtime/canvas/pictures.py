"""Draws in pictures: other pictures fitted to their place, the top labels with bars, lines of text, notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..console import percent
from ..frame import Pixels
from ..opencv import cv2
from .text import BOLD, Color, default_font

BACKGROUND: Color = (30, 27, 25)
TRACK: Color = (62, 57, 53)
TEXT: Color = (238, 236, 233)
DIM: Color = (168, 160, 152)
ACCENT: Color = (222, 190, 62)
MUTED: Color = (148, 130, 74)
WARNING: Color = (72, 178, 255)

MIN_SQUARE = 4  # a picture that grows to more than so many times its size is tiny, some thirty pixels, and stays sharp
MAX_LABEL_SHARE = 0.4  # of the width is the most that labels get: bars need the rest


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture, in pixels from the top left."""

    x: int
    y: int
    width: int
    height: int

    def view(self, pixels: Pixels) -> Pixels:
        """Return the rectangle's part of a picture as a view, to draw into."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


def blank(width: int, height: int) -> Pixels:
    """Return an empty picture, (height, width, 3) uint8, BGR."""
    pixels = np.empty((height, width, 3), np.uint8)
    fill(pixels, BACKGROUND)
    return pixels


def fill(pixels: Pixels, color: Color) -> None:
    """Paint all of a picture in one colour; NumPy takes twenty times as long for it."""
    cv2.rectangle(pixels, (0, 0), (pixels.shape[1], pixels.shape[0]), color, cv2.FILLED)


def fit(image: Pixels, pixels: Pixels) -> Box:
    """Draw a picture into another one, centred, as large as fits, and return the box; tiny ones grow in squares."""
    height, width = pixels.shape[:2]
    scale = min(width / image.shape[1], height / image.shape[0])
    tiny = scale > MIN_SQUARE
    if tiny:  # a whole number keeps squares equal
        scale = int(scale)
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    box = Box((width - size[0]) // 2, (height - size[1]) // 2, *size)
    kind = cv2.INTER_NEAREST if tiny else cv2.INTER_LINEAR
    box.view(pixels)[:] = cv2.resize(_shrunk(image, size), size, interpolation=kind)
    return box


def inset(image: Pixels, pixels: Pixels) -> None:
    """Draw a picture into the upper right corner of another one, a quarter of its shorter side large."""
    side = min(pixels.shape[:2]) // 4
    corner = Box(pixels.shape[1] - side, 0, side, side).view(pixels)
    fill(corner, TRACK)
    fit(image, corner)


def _shrunk(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Return a picture shrunk by a whole number where it is twice too large or more: the fast way without aliasing."""
    factor = min(image.shape[1] // size[0], image.shape[0] // size[1])
    if factor < 2:
        return image
    whole = image.shape[1] // factor, image.shape[0] // factor
    kept = image[: whole[1] * factor, : whole[0] * factor]
    return np.asarray(cv2.resize(kept, whole, interpolation=cv2.INTER_AREA), np.uint8)


def dim(pixels: Pixels) -> None:
    """Take light and colour out of a picture, in place, as a sign that what it shows is not live."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    pixels[:] = (gray * np.float32(0.35)).astype(np.uint8)[:, :, None]


def text_row(pixels: Pixels, left: str, right: str, size: int, colors: tuple[Color, Color] = (TEXT, DIM)) -> None:
    """Draw a line of text across a picture; the left part is cut at its start where the right one needs the room."""
    font, bold = default_font(), default_font(BOLD)
    margin, height = size // 2, pixels.shape[0]
    baseline = _baseline(height, size)
    right = font.cut(right, size, pixels.shape[1] - 2 * margin)
    taken = font.width(right, size)
    font.draw(pixels, right, (pixels.shape[1] - margin - taken, baseline), size, colors[1])
    room = pixels.shape[1] - taken - 4 * margin
    bold.draw(pixels, bold.cut(left, size, room, keep_end=True), (margin, baseline), size, colors[0])


def notice(pixels: Pixels, lines: Sequence[str], size: int, color: Color = WARNING) -> None:
    """Draw lines in the middle of a picture, on a dark band across it; the first one is bold."""
    step = round(size * 1.5)
    top = max((pixels.shape[0] - step * len(lines)) // 2, 0)
    band = pixels[max(top - size // 2, 0) : top + step * len(lines) + size // 2]
    band[:] = band // 4
    for number, line in enumerate(lines):
        font = default_font(400 if number else BOLD)
        text = font.cut(line, size, pixels.shape[1] - size)
        place = (pixels.shape[1] - font.width(text, size)) // 2, top + step * number + _baseline(step, size)
        font.draw(pixels, text, place, size, TEXT if number else color)


class Bars:
    """Draws the top labels, one a line: label, bar and percentage, each in its column whatever the labels are."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Take all labels that may come: the widest decides how wide their column is."""
        self._labels = tuple(labels)
        self._columns: dict[tuple[int, int], int] = {}

    def draw(self, pixels: Pixels, top: Sequence[tuple[str, float | None]], size: int, step: int) -> None:
        """Draw labels and their probabilities, where they have one, with text ``size`` and lines ``step`` pixels high.

        The first one is set off.
        """
        width, margin = pixels.shape[1], size // 2
        label_room = self._column(size, width)
        number_room = default_font(BOLD).width("100.0 %", size)
        track = Box(2 * margin + label_room, 0, max(width - label_room - number_room - 4 * margin, 0), step)
        for number, (label, probability) in enumerate(top):
            line = pixels[number * step : (number + 1) * step]
            font = default_font(400 if number else BOLD)
            color = DIM if number else TEXT
            baseline = _baseline(step, size)
            font.draw(line, font.cut(label, size, label_room), (margin, baseline), size, color)
            if probability is None:
                continue
            shown = percent(probability)
            font.draw(line, shown, (width - margin - font.width(shown, size), baseline), size, color)
            _bar(track.view(line), probability, size, MUTED if number else ACCENT)

    def _column(self, size: int, width: int) -> int:
        if (size, width) not in self._columns:
            font = default_font(BOLD)
            widest = max((font.width(font.drawable(label), size) for label in self._labels), default=0)
            self._columns = {(size, width): min(widest, int(width * MAX_LABEL_SHARE))}
        return self._columns[size, width]


def caption(pixels: Pixels, label: str, probability: float | None, details: str, size: int) -> None:
    """Draw a label on a darkened strip along the bottom of a picture, and details at the right where they fit.

    A label without a probability, None, has no number beside it.
    """
    strip = pixels[-round(size * 1.7) :]
    strip[:] = strip // 4
    font, bold = default_font(), default_font(BOLD)
    number = "" if probability is None else percent(probability)
    margin, baseline = size // 2, _baseline(strip.shape[0], size)
    room = pixels.shape[1] - 2 * margin - size - bold.width(number, size)
    label = bold.cut(label, size, room)
    bold.draw(strip, label, (margin, baseline), size, TEXT)
    end = margin + bold.width(label, size) + size
    bold.draw(strip, number, (end, baseline), size, ACCENT)
    details = font.drawable(details)
    start = pixels.shape[1] - margin - font.width(details, size)
    if start >= end + bold.width(number, size) + size:
        font.draw(strip, details, (start, baseline), size, DIM)


def _bar(track: Pixels, probability: float, size: int, color: Color) -> None:
    thickness = max(size // 2, 3)
    top = (track.shape[0] - thickness) // 2
    track[top : top + thickness] = TRACK
    track[top : top + thickness, : round(track.shape[1] * min(max(probability, 0), 1))] = color


def _baseline(height: int, size: int) -> int:
    return (height + round(size * 0.7)) // 2
