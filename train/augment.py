"""Random variations of a training frame, applied to BGR uint8 pixels before the one preprocessing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..runtime.opencv import cv2
from ..runtime.spec import Backbone

__all__ = ["augment"]

Frame = npt.NDArray[np.uint8]

ROTATION_DEGREES = 8.0
SCALE_RANGE = 0.12
SHIFT_FRACTION = 0.08
BRIGHTNESS = 25.0
FLIPS = {"xception": True, "digits": False}  # a mirrored 3 is no digit


def augment(frame: Frame, rng: np.random.Generator, backbone: Backbone) -> Frame:
    """Rotate, scale and shift a little; for photographs mirror half of the frames and vary the brightness.

    Args:
        frame: (H, W, 3) uint8 BGR.
        rng: where the randomness comes from; the same state gives the same frame.
        backbone: photographs (``xception``) are mirrored, digits are not.

    Returns:
        A frame of the same shape.
    """
    height, width = frame.shape[:2]
    angle = rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES)
    scale = rng.uniform(1 - SCALE_RANGE, 1 + SCALE_RANGE)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[0, 2] += rng.uniform(-SHIFT_FRACTION, SHIFT_FRACTION) * width
    matrix[1, 2] += rng.uniform(-SHIFT_FRACTION, SHIFT_FRACTION) * height
    border = cv2.BORDER_REFLECT if FLIPS[backbone] else cv2.BORDER_CONSTANT
    moved = cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    if FLIPS[backbone]:
        moved = cv2.convertScaleAbs(moved, alpha=1.0, beta=rng.uniform(0, BRIGHTNESS))
        if rng.random() < 0.5:
            moved = cv2.flip(moved, 1)
    return np.asarray(moved, dtype=np.uint8)
