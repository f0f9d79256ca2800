"""Holds the ink that the mouse draws and erases, and saves it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..console import say
from ..digits import drawn_frame
from ..opencv import cv2
from ..storage import free_path, write_bytes

PAPER_SIDE = 400  # pixels
THICKNESS = 15
THINNEST, THICKEST = 1, 61
ERASER = 2  # the eraser is so many times as wide as the brush, as one seldom hits a line exactly
BLANK, INK = 0, 255

Point = tuple[int, int]


class Paper:
    """A square of paper, ``ink`` (400, 400) uint8, 255 = ink, 0 = paper, with a round brush.

    ``changes`` counts the changes so far; two equal numbers mean the same picture.
    """

    def __init__(self, thickness: int = THICKNESS) -> None:
        """Begin with empty paper and a brush of ``thickness`` pixels, limited to 1 to 61."""
        self.ink: npt.NDArray[np.uint8] = np.full((PAPER_SIDE, PAPER_SIDE), BLANK, np.uint8)
        self.changes = 0
        self.thickness = 0
        self._last: Point | None = None
        self._erases = False
        self.change_thickness(thickness)

    @property
    def drawing(self) -> bool:
        """Whether the brush is down, as while a mouse button is pressed."""
        return self._last is not None

    @property
    def empty(self) -> bool:
        """Whether there is no ink at all."""
        return not self.ink.any()

    def press(self, point: Point, *, erase: bool = False) -> None:
        """Put the brush (or the eraser, twice as wide) down at a point (x, y); it leaves a dot."""
        self._erases = erase
        self._last = point
        self.move(point)

    def move(self, point: Point) -> None:
        """Draw a line from where the brush was, if it is down; what lies outside the paper is clipped."""
        if self._last is None:
            return
        color, width = (BLANK, ERASER * self.thickness) if self._erases else (INK, self.thickness)
        cv2.line(self.ink, self._last, point, color, width, cv2.LINE_AA)
        self._last = point
        self.changes += 1

    def release(self) -> None:
        """Lift the brush."""
        self._last = None

    def clear(self) -> None:
        """Clear the paper of all ink."""
        self.ink[:] = BLANK
        self.changes += 1

    def change_thickness(self, by: int) -> None:
        """Make the brush thicker by so many pixels, or thinner where they are negative, within 1 to 61."""
        self.thickness = min(max(self.thickness + by, THINNEST), THICKEST)


def save_drawing(ink: npt.NDArray[np.uint8], folder: Path) -> str:
    """Write ``drawing-TIME.png`` and, as the models saw it, ``drawing-TIME-28x28.png``; nothing is overwritten.

    For the second, ``hybrid-infer`` gives the same answer. The folder is made where it is missing. The message that is
    returned says for the window what happened, also that the folder can't be written to; stderr gets it with the path.
    """
    drawn = free_path(folder / time.strftime("drawing-%Y%m%d-%H%M%S.png"))  # two may be saved within a second
    try:
        for path, picture in ((drawn, ink), (drawn.with_stem(f"{drawn.stem}-28x28"), drawn_frame(ink))):
            write_bytes(path, bytes(cv2.imencode(".png", picture)[1]))
            say(f"saved {path}")
    except OSError as error:
        say(f"{folder}: can't save there: {error.strerror or error}", style="yellow")
        return f"not saved: {error.strerror or error}"
    return f"saved {drawn.name}"
