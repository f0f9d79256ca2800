"""Hold the ink that the mouse draws and erases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..opencv import cv2

__all__ = ["SIDE", "THICKNESS", "Canvas"]

SIDE = 400  # pixels
THICKNESS = 15
THINNEST, THICKEST = 1, 61
ERASER = 2  # the eraser is so many times as wide as the brush, as one seldom hits a line exactly
PAPER, INK = 0, 255

Point = tuple[int, int]


class Canvas:
    """This is a square of paper with a round brush.

    Attributes:
        ink: (SIDE, SIDE) uint8, 255 = ink, 0 = paper.
        changes: the number of changes so far; two equal numbers mean the same picture.
    """

    def __init__(self, thickness: int = THICKNESS) -> None:
        """Begin with empty paper and a brush of ``thickness`` pixels, limited to 1 to 61."""
        self.ink: npt.NDArray[np.uint8] = np.full((SIDE, SIDE), PAPER, np.uint8)
        self.changes = 0
        self._thickness = _limited(thickness)
        self._last: Point | None = None
        self._erases = False

    @property
    def thickness(self) -> int:
        """The thickness of the brush, pixels."""
        return self._thickness

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
        color, width = (PAPER, ERASER * self._thickness) if self._erases else (INK, self._thickness)
        cv2.line(self.ink, self._last, point, color, width, cv2.LINE_AA)
        self._last = point
        self.changes += 1

    def release(self) -> None:
        """Lift the brush."""
        self._last = None

    def clear(self) -> None:
        """Clear the paper of all ink."""
        self.ink[:] = PAPER
        self.changes += 1

    def change_thickness(self, by: int) -> None:
        """Make the brush thicker by so many pixels, or thinner where they are negative, within 1 to 61."""
        self._thickness = _limited(self._thickness + by)


def _limited(thickness: int) -> int:
    return min(max(thickness, THINNEST), THICKEST)
