"""Save a drawing as it was drawn, and as the models saw it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..console import say
from ..opencv import cv2
from ..storage import replacing
from .digits import drawn_frame

__all__ = ["save_drawing"]


def save_drawing(ink: npt.NDArray[np.uint8], folder: Path) -> str:
    """Write ``drawing-TIME.png`` and, as the models saw it, ``drawing-TIME-28x28.png``; nothing is overwritten.

    For the second, ``hybrid-infer`` gives the same answer. If the folder can't be written to, that is said and does not
    end the window.

    Args:
        ink: the canvas, (H, W) uint8, 255 = ink.
        folder: the folder to save in, made where it is missing.

    Returns:
        A message for the window about what happened; stderr gets it with the path.
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
    """Return a file name, without suffix, that is not taken: two drawings may be saved within a second."""
    name, number = stem, 1
    while (folder / f"{name}.png").exists():
        number += 1
        name = f"{stem}-{number}"
    return name
