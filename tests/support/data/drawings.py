"""The forty drawings of tests/data: strokes that a test draws with the mouse, or on a canvas without one."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_edge.runtime.draw.paper import PAPER_SIDE, Paper

STROKES = next(folder for folder in Path(__file__).parents if folder.name == "tests") / "data" / "digit_strokes.json"
SIZE = 170  # pixels of the canvas's 400, and a stroke of 15
PLACES: dict[str, tuple[float, tuple[float, float]]] = {
    "centre": (SIZE, (0.5, 0.5)),
    "upper left": (SIZE, (0, 0)),
    "upper right": (SIZE, (1, 0)),
    "lower left": (SIZE, (0, 1)),
    "lower right": (SIZE, (1, 1)),
    "half": (SIZE / 2, (0.5, 0.5)),
    "double": (SIZE * 2, (0.5, 0.5)),
}

Gray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """A digit as strokes: points (x, y) in units of the longer side of its own box."""

    digit: int
    shape: str
    strokes: list[list[tuple[float, float]]]

    def points(self, size: float, place: tuple[float, float]) -> list[list[tuple[int, int]]]:
        """The strokes ``size`` pixels long, with the box's upper left corner at ``place``."""
        return [[(round(place[0] + x * size), round(place[1] + y * size)) for x, y in line] for line in self.strokes]

    def ink(self, size: float, corner: tuple[float, float] = (0.5, 0.5), thickness: int = 15) -> Gray:
        """Drawn on a canvas as by the mouse; ``corner`` is 0 for left or top, 1 for right or bottom."""
        margin = thickness / 2 + 2
        extent = np.max([point for line in self.strokes for point in line], axis=0) * size
        place = margin + (PAPER_SIDE - 2 * margin - extent) * corner
        paper = Paper(thickness)
        for line in self.points(size, (float(place[0]), float(place[1]))):
            paper.press(line[0])
            for point in line[1:]:
                paper.move(point)
            paper.release()
        return paper.ink


def read_drawings() -> list[Drawing]:
    return [Drawing(**item) for item in json.loads(STROKES.read_text(encoding="utf-8"))["drawings"]]


def best_difference(frame: Gray, other: Gray) -> float:
    """Mean |difference| as a share of the ink, at the best of the nine shifts by at most one pixel."""
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    gaps = [np.abs(np.roll(other, shift, (0, 1)).astype(int) - frame).sum() for shift in shifts]
    return float(min(gaps) / frame.astype(int).sum())
