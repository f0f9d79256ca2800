"""Keep the images on which models differ, those of the surest contradictions, for a contact sheet."""

from __future__ import annotations

import errno
import heapq
from pathlib import Path

import numpy as np

from ..canvas.sheet import Cell, answer_cell, thumbnail, write_sheet
from ..errors import UsageError
from .answers import Answers

MAX_PICTURES = 60


class Differences:
    """This class counts the images on which models differ, and keeps the surest contradictions as pictures."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[tuple[float, int, Cell]] = []  # a heap: the least sure contradiction first

    def add(self, answers: Answers) -> None:
        """Count and perhaps keep an image on which the models differ; others are passed over."""
        if answers.same:
            return
        self.count += 1
        # of two equally sure contradictions the earlier is kept
        heapq.heappush(self._kept, (answers.contradiction, -self.count, _cell(answers)))
        if len(self._kept) > MAX_PICTURES:
            heapq.heappop(self._kept)

    def write(self, path: Path, images: int) -> None:
        """Write the PNG, the surest contradictions of ``images`` compared first; the file is replaced as a whole."""
        cells = [cell for *_, cell in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]
        more = f", the first {len(cells)} of them" if self.count > len(cells) else ""
        title = f"{self.count} of {images} images on which the models differ"
        try:
            write_sheet(path, cells, title, f"the surest contradictions first{more}")
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise
            raise UsageError(
                f"{path}: expected a place for the contact sheet, found: {error.strerror or error}; name another one "
                "with --sheet FILE.png"
            ) from None


def _cell(answers: Answers) -> Cell:
    said = ((name, prediction.label, prediction.probability) for name, prediction in answers.predictions.items())
    return answer_cell(thumbnail(np.asarray(answers.frame.image)), answers.truth, said)
