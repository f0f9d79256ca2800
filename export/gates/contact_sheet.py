"""Draws a contact sheet of the images whose first label a variant changed, to look into a gate's refusal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...runtime.canvas.sheet import PICTURE_SIDE, Cell, answer_cell, thumbnail, write_sheet
from ...runtime.errors import ImageError
from ...runtime.preprocess import read_image
from .comparison import Flip

MAX_FLIPS = 48
MISSING_PICTURE = np.full((PICTURE_SIDE, PICTURE_SIDE, 3), 225, np.uint8)


def write_flips(path: Path, flips: Sequence[Flip], variant: str, images: int) -> Path | None:
    """Draw the first 48 flips, the worst first, with their true label, Keras's answer and the variant's, as a PNG.

    Return its path; it is replaced as a whole, or removed and None returned where none of the images flipped.
    """
    if not flips:
        path.unlink(missing_ok=True)  # it would be an earlier export's
        return None
    hidden = len(flips) - MAX_FLIPS
    more = f"; the first {MAX_FLIPS} are shown, {hidden} more are not" if hidden > 0 else ""
    note = f"{len(flips)} of {images} images with another first label than Keras's, the widest margin first{more}"
    cells = [_cell(flip, variant.partition("-")[0].upper()) for flip in flips[:MAX_FLIPS]]
    write_sheet(path, cells, variant, note)
    return path


def _cell(flip: Flip, precision: str) -> Cell:
    try:
        picture = thumbnail(read_image(flip.image.path))
    except ImageError:  # it is gone since it was compared: the sheet has a gray square for it
        picture = MISSING_PICTURE
    keras = ("Keras", flip.keras_label, flip.keras_probability)
    variant = (precision, flip.variant_label, flip.variant_probability)
    return answer_cell(picture, flip.image.label or None, (keras, variant))
