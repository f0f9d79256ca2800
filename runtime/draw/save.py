"""A drawing as files: as it was drawn, and as the models saw it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..digits import drawn_frame
from ..files import replacing
from ..opencv import cv2
from ..opening import say

__all__ = ["save_drawing"]


def save_drawing(ink: npt.NDArray[np.uint8], folder: Path) -> str:
    """Write ``drawing-TIME.png`` and, as the models saw it, ``drawing-TIME-28x28.png``; nothing is overwritten.

    The second is what ``hybrid-infer`` gives the same answer for. A folder that can't be written to is said and does
    not end the window.

    Args:
        ink: (H, W) uint8, 255 = ink.
        folder: made where it is missing.

    Returns:
        What happened, for the window; on stderr it is said with the path.
    """
    stem = _free(folder, time.strftime("drawing-%Y%m%d-%H%M%S"))
    try:
        for suffix, picture in (("", ink), ("-28x28", drawn_frame(ink))):
            path = folder / f"{stem}{suffix}.png"
            with replacing(path) as partial:
                partial.write_bytes(bytes(cv2.imencode(".png", picture)[1]))
            say(f"saved {path}")
    except OSError as error:
        say(f"{folder}: can't save there: {error.strerror or error}", style="yellow")
        return f"not saved: {error.strerror or error}"
    return f"saved {stem}.png"


def _free(folder: Path, stem: str) -> str:
    """A name that is not taken: two drawings may be saved within a second."""
    name, number = stem, 1
    while (folder / f"{name}.png").exists():
        number += 1
        name = f"{stem}-{number}"
    return name
