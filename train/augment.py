"""Training frames are varied at random, as BGR uint8 pixels, before the preprocessing that every frame goes through."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..runtime.opencv import cv2
from ..runtime.spec import Backbone

Frame = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

ROTATION_DEGREES = 8.0
SCALE_RANGE = 0.12
SHIFT_FRACTION = 0.08
BRIGHTNESS = 25.0

# Hands differ in slant, proportions and pen. With scikit-learn's digits, which were scaled up from 8 x 8 and are soft
# and bold, a model that never saw a sharp or a thin stroke reads one drawing in four wrong (docs/digits.md).
DIGIT_ROTATION_DEGREES = 12.0
DIGIT_SLANT = 0.25  # the most columns that a row is moved against the next
DIGIT_SCALE_RANGE = 0.18  # for width and height, each by itself
DIGIT_SHIFT_FRACTION = 0.05  # less than for photographs, as digits are centred by mass
PEN_SHARE = 0.7  # share of frames that get another pen; the others keep their strokes
PEN_LEVEL = (0.25, 0.7)  # the gray that becomes the edge of a stroke: a low one makes bold strokes, a high one thin
PEN_CONTRAST = (1.0, 4.0)


def augment(frame: Frame, rng: np.random.Generator, backbone: Backbone) -> Frame:
    """Vary a training frame, (H, W, 3) uint8 BGR, at random; the same state of ``rng`` gives the same frame.

    Photographs (``xception``) are rotated, scaled and shifted a little, half of them mirrored, and made brighter.
    Digits, light ink on black, are rotated, slanted, stretched in width and height and shifted, and get strokes of
    another thickness and sharpness; a mirrored 3 is no digit, so none is mirrored.
    """
    return _digit(frame, rng) if backbone == "digits" else _photograph(frame, rng)


def _photograph(frame: Frame, rng: np.random.Generator) -> Frame:
    height, width = frame.shape[:2]
    angle = rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES)
    scale = rng.uniform(1 - SCALE_RANGE, 1 + SCALE_RANGE)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[0, 2] += rng.uniform(-SHIFT_FRACTION, SHIFT_FRACTION) * width
    matrix[1, 2] += rng.uniform(-SHIFT_FRACTION, SHIFT_FRACTION) * height
    moved = cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    moved = cv2.convertScaleAbs(moved, alpha=1.0, beta=rng.uniform(0, BRIGHTNESS))
    if rng.random() < 0.5:
        moved = cv2.flip(moved, 1)
    return np.asarray(moved, dtype=np.uint8)


def _digit(frame: Frame, rng: np.random.Generator) -> Frame:
    size = (frame.shape[1], frame.shape[0])
    moved = cv2.warpAffine(frame, _hand(size, rng), size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    if rng.random() < PEN_SHARE:
        moved = cv2.LUT(moved, _pen(rng))
    return np.asarray(moved, dtype=np.uint8)


def _hand(size: tuple[int, int], rng: np.random.Generator) -> Matrix:
    """Draw another hand's rotation, slant and proportions about the middle, and a shift, as a (2, 3) affine matrix."""
    angle = np.deg2rad(rng.uniform(-DIGIT_ROTATION_DEGREES, DIGIT_ROTATION_DEGREES))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1.0, rng.uniform(-DIGIT_SLANT, DIGIT_SLANT)], [0.0, 1.0]])
    stretch = np.diag(rng.uniform(1 - DIGIT_SCALE_RANGE, 1 + DIGIT_SCALE_RANGE, 2))
    linear = turn @ slant @ stretch
    middle = (np.array(size) - 1) / 2
    shift = rng.uniform(-DIGIT_SHIFT_FRACTION, DIGIT_SHIFT_FRACTION, 2) * size
    return np.column_stack([linear, middle - linear @ middle + shift])


def _pen(rng: np.random.Generator) -> Frame:
    """Draw another pen: a table from gray to gray, (256,) uint8, that moves and sharpens the edges of strokes."""
    level, contrast = 255 * rng.uniform(*PEN_LEVEL), rng.uniform(*PEN_CONTRAST)
    contrast = max(contrast, 127.5 / level)  # paper stays black
    table = np.clip((np.arange(256) - level) * contrast + 127.5, 0, 255)
    return np.asarray(table, dtype=np.uint8)
