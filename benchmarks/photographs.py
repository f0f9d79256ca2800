"""Real photographs from the installed scikit-image: nothing is downloaded, and every machine has the same."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import skimage.data

__all__ = ["frame", "write_crops"]

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 90)

Frame = npt.NDArray[np.uint8]


def frame(name: str, width: int, height: int) -> Frame:
    """A photograph's largest centred part of that shape, resized to (height, width, 3) uint8 BGR."""
    photograph = _read(name)
    rows, columns = photograph.shape[:2]
    scale = min(columns / width, rows / height)
    part_width, part_height = int(width * scale), int(height * scale)
    top, left = (rows - part_height) // 2, (columns - part_width) // 2
    part = photograph[top : top + part_height, left : left + part_width]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def write_crops(folder: Path, count: int, classes: int, seed: int = 0, pixels: int | None = None) -> Path:
    """Write square crops, 25 to 90 % of the shorter side, as JPEGs in class folders; the classes mean nothing.

    ``pixels`` is the side that they are resized to; None: their own.
    """
    rng = np.random.default_rng(seed)
    sources = [_read(name) for name in PHOTOGRAPHS]
    for number in range(count):
        source = sources[number % len(sources)]
        height, width = source.shape[:2]
        side = int(min(height, width) * rng.uniform(0.25, 0.9))
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        target = folder / f"class_{number % classes:03}"
        target.mkdir(parents=True, exist_ok=True)
        crop = source[top : top + side, left : left + side]
        if pixels is not None:
            crop = cv2.resize(crop, (pixels, pixels), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(os.fspath(target / f"{number:05}.jpg"), crop, QUALITY)
    return folder


def _read(name: str) -> Frame:
    path = Path(skimage.data.__file__).with_name(name)
    return np.asarray(cv2.imread(os.fspath(path), cv2.IMREAD_COLOR), np.uint8)
