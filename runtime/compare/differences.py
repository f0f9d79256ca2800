"""Keep the images on which models differ, those of the surest contradictions, for a contact sheet."""

from __future__ import annotations

import heapq
from itertools import count
from pathlib import Path

from ..console import percent
from .sheet import GREEN, INK, RED, Cell, Line, draw_sheet, thumbnail, write_sheet
from .tally import Answers

__all__ = ["MAX_SHOWN", "Differences"]

MAX_SHOWN = 60
SIDE = 128  # pixels, the longer side of a kept picture


class Differences:
    """This class keeps small pictures of the ``most`` surest contradictions; others are only counted."""

    def __init__(self, most: int = MAX_SHOWN) -> None:
        self.count = 0
        self._most = most
        self._number = count()
        self._kept: list[tuple[float, int, Cell]] = []  # a heap: the least sure contradiction first

    def add(self, answers: Answers) -> None:
        """Count and perhaps keep an image on which the models differ; others are passed over."""
        if answers.same:
            return
        self.count += 1
        key = answers.contradiction, -next(self._number)  # of two equally sure ones, the earlier is kept
        if len(self._kept) < self._most:
            heapq.heappush(self._kept, (*key, _cell(answers)))
        elif key > self._kept[0][:2]:
            heapq.heapreplace(self._kept, (*key, _cell(answers)))

    def write(self, path: Path, images: int) -> None:
        """Draw the sheet, the surest contradictions first.

        Args:
            path: the PNG to write.
            images: the number of images that were compared.

        Raises:
            UsageError: writing there is not allowed.
        """
        cells = [cell for _, _, cell in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]
        more = f", the first {len(cells)} of them" if self.count > len(cells) else ""
        title = f"{self.count} of {images} images on which the models differ"
        write_sheet(path, draw_sheet(cells, title, f"the surest contradictions first{more}"))


def _cell(answers: Answers) -> Cell:
    assert answers.frame.image is not None  # noqa: S101  # it was classified
    lines = [Line(f"true: {answers.truth}")] if answers.truth is not None else []
    for name, prediction in answers.predictions.items():
        color = INK if answers.truth is None else GREEN if prediction.label == answers.truth else RED
        lines.append(Line(f"{name}: {prediction.label}", percent(prediction.probability), color))
    return Cell(thumbnail(answers.frame.image, SIDE), tuple(lines))
