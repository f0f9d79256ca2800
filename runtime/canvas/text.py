r"""Measures text, cuts it to a width, and draws it in pictures, in every script that this OpenCV can draw.

OpenCV 5 brings TrueType fonts that cover Latin, Greek, Cyrillic, Arabic, Hebrew and CJK; OpenCV 4 has only ASCII
strokes and draws question marks for the rest. A label must never look like another one, so what can't be drawn is
spelled out: accents are taken off where that leaves ASCII, and anything else becomes its code point, as in ``\u732b``.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..foreign_text import printable
from ..frame import Pixels
from ..opencv import cv2

Color = tuple[int, int, int]  # blue, green, red
BOLD = 600  # a font's weight, from 100 to 900
PROBE_SIZE = 24  # pixels: where a character is drawn on its own, to see whether the font has it
ASCII_LETTERS = str.maketrans(  # letters that Unicode doesn't take apart
    {"ß": "ss", "ẞ": "SS", "Ł": "L", "ł": "l", "Ø": "O", "ø": "o", "Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe"}
    | {"Đ": "D", "đ": "d", "Þ": "Th", "þ": "th", "ð": "d", "ı": "i", "’": "'", "–": "-", "—": "-", "…": "..."}
)
CACHED_TEXTS = 4096  # measured or probed texts: far more than one run has labels


class Font(ABC):
    """Measures, cuts and spells out one line of text; what draws it is a subclass.

    ``drawable`` returns a text as this font will show it: one line, nothing in it that would come out as ``?``.
    ``width`` returns how wide drawable text is at a height of so many pixels, in pixels.
    """

    ellipsis = "…"

    def __init__(self) -> None:
        self.drawable: Callable[[str], str] = lru_cache(CACHED_TEXTS)(self._drawable)
        self.width: Callable[[str, int], int] = lru_cache(CACHED_TEXTS)(self._width)
        self._has: Callable[[str], bool] = lru_cache(CACHED_TEXTS)(self._probe)

    @abstractmethod
    def draw(self, pixels: Pixels, text: str, place: tuple[int, int], size: int, color: Color) -> None:
        """Draw drawable text with the left end of its baseline at ``place`` (x, y)."""

    def cut(self, text: str, size: int, room: int, *, keep_end: bool = False) -> str:
        """Return the text, made drawable, cut with an ellipsis to at most ``room`` pixels, at its end or its start."""
        text = self.drawable(text)
        if self.width(text, size) <= room:
            return text
        short, long = 0, len(text)  # characters that fit, and that don't
        while long - short > 1:
            middle = (short + long) // 2
            fits = self.width(self._shortened(text, middle, keep_end=keep_end), size) <= room
            short, long = (middle, long) if fits else (short, middle)
        cut = self._shortened(text, short, keep_end=keep_end)
        return cut if self.width(cut, size) <= room else ""

    def _shortened(self, text: str, length: int, *, keep_end: bool) -> str:
        return self.ellipsis + text[len(text) - length :] if keep_end else text[:length].rstrip() + self.ellipsis

    @abstractmethod
    def _width(self, text: str, size: int) -> int: ...

    def _drawable(self, text: str) -> str:
        composed = unicodedata.normalize("NFC", printable(text))
        return "".join(map(self._character, composed))

    def _character(self, character: str) -> str:
        if character.isascii() or self._has(character):
            return character
        base = unicodedata.normalize("NFKD", character.translate(ASCII_LETTERS))
        plain = "".join(part for part in base if not unicodedata.combining(part))
        return plain if plain and plain.isascii() else character.encode("unicode_escape").decode()

    def _probe(self, character: str) -> bool:
        """Return whether the font has a character: OpenCV draws a question mark for one that it lacks."""
        drawn, question = np.zeros((2, PROBE_SIZE * 2, PROBE_SIZE * 2, 3), np.uint8)
        self.draw(drawn, character, (4, 30), PROBE_SIZE, (255, 255, 255))
        self.draw(question, "?", (4, 30), PROBE_SIZE, (255, 255, 255))
        return bool(drawn.any()) and not np.array_equal(drawn, question)


class TrueTypeFont(Font):
    """Draws with OpenCV 5's built-in font."""

    def __init__(self, weight: int = 400) -> None:
        """Open the built-in font at a weight from 100 (thin) to 900 (black)."""
        super().__init__()
        self._face = cv2.FontFace("sans")
        self._weight = weight

    def draw(self, pixels: Pixels, text: str, place: tuple[int, int], size: int, color: Color) -> None:
        """Draw drawable text; see ``Font.draw``."""
        cv2.putText(pixels, text, place, color, self._face, size, self._weight)

    def _width(self, text: str, size: int) -> int:
        _, _, width, _ = cv2.getTextSize((1 << 15, 64), text, (0, 0), self._face, size, self._weight)
        return int(width)


class StrokeFont(Font):
    """Draws with the Hershey strokes of OpenCV 4, which cover ASCII alone."""

    ellipsis = "..."

    def __init__(self, weight: int = 400) -> None:
        """Take a weight from 100 to 900: from 600 on strokes are two pixels thick instead of one."""
        super().__init__()
        self._thickness = 2 if weight >= BOLD else 1

    def draw(self, pixels: Pixels, text: str, place: tuple[int, int], size: int, color: Color) -> None:
        """Draw drawable text; see ``Font.draw``."""
        scale = self._scale(size)
        cv2.putText(pixels, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, color, self._thickness, cv2.LINE_AA)

    def _width(self, text: str, size: int) -> int:
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self._scale(size), self._thickness)
        return int(width)

    def _scale(self, size: int) -> float:
        return size / 33  # a capital letter of this font is 22 pixels high at scale 1, two thirds of its size

    def _probe(self, character: str) -> bool:  # noqa: ARG002  # it has none
        return False


@lru_cache(4)
def default_font(weight: int = 400) -> Font:
    """Return the best font that this OpenCV has, at a weight from 100 to 900."""
    return TrueTypeFont(weight) if hasattr(cv2, "FontFace") else StrokeFont(weight)
