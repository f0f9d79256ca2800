"""This module turns ink of any size and place into a 28 x 28 frame, normalised as MNIST's digits were.

LeCun et al. (yann.lecun.com/exdb/mnist): "size normalized to fit in a 20x20 pixel box while preserving their aspect
ratio ... centered in a 28x28 image by computing the center of mass of the pixels". ``mnist_frame`` computes in integers
throughout, so that a device gets the frame that training saw, to the bit. ``drawn_frame`` widens strokes before that,
with distances and averages that are OpenCV's floats.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .opencv import cv2
from .spec import ModelSpec

SIDE = 28  # side of the frame, pixels
BOX = 20  # the ink's longer side in the frame, pixels
PEN = 2.3  # the thinnest stroke of a drawing in the frame, pixels; MNIST's are two to three wide
INK = 128  # the gray from which a pixel counts as ink where its edges are soft
WORKING = 4 * BOX  # a drawing's longer side while its strokes are widened: 400 pixels take twelve times as long

LABELS = tuple("0123456789")

Gray = npt.NDArray[np.uint8]


def reads_digits(spec: ModelSpec) -> bool:
    """Return whether a model reads frames as ``mnist_frame`` makes them: its labels are the digits, in 28 x 28."""
    return spec.image_size == SIDE and sorted(spec.class_labels) == list(LABELS)


def mnist_frame(ink: Gray) -> Gray:
    """Normalise ink as MNIST does: crop to it, scale its longer side to 20, put its centre of mass in the middle.

    The shift is by whole pixels, so the centre of mass lies within half a pixel of the frame's centre, (13.5, 13.5): a
    sub-pixel shift would blur strokes that are two or three pixels wide. Ink so lopsided that it would leave the frame
    stays inside, and off centre.

    Ink is (H, W) uint8 of any size, 255 = ink, 0 = paper, else InputError; the frame is (28, 28) uint8, all zero if
    there is no ink, or so little that none is left at that size.
    """
    if ink.ndim != 2 or ink.dtype != np.uint8:
        raise InputError(f"expected ink of shape (H, W), uint8, 255 = ink; found shape {ink.shape}, {ink.dtype}")
    frame = np.zeros((SIDE, SIDE), np.uint8)
    if not ink.any():
        return frame
    digit = _fit_box(_crop(ink))
    if not digit.any():  # a gray level or two between much paper is rounded to none
        return frame
    height, width = digit.shape
    top, left = _offset(digit.sum(axis=1)), _offset(digit.sum(axis=0))
    frame[top : top + height, left : left + width] = digit
    return frame


def drawn_frame(ink: Gray) -> Gray:
    """Normalise a drawing as ``mnist_frame`` does, after thickening strokes that would come out thinner than a pen's.

    A digit drawn large with a mouse has thin strokes for its size: scaled to 20 pixels they would be less than one
    pixel wide, which no training image has.
    """
    return mnist_frame(_thicken(ink) if ink.ndim == 2 and ink.dtype == np.uint8 else ink)


def _thicken(ink: Gray) -> Gray:
    """Widen strokes that would be thinner than ``PEN`` in the frame; leave wider ones as they are."""
    ink = shrink(_crop(ink), WORKING)
    strokes = (ink >= INK).astype(np.uint8)
    if not strokes.any():
        return ink
    # across a stroke w pixels wide the distances to the nearest pixel of paper are 1, 2, ..., w/2, ..., 2, 1
    distances = cv2.distanceTransform(cv2.copyMakeBorder(strokes, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5)
    width = 4 * float(distances.sum()) / int(strokes.sum()) - 2
    lacking = round(PEN / BOX * max(ink.shape) - width)
    if lacking <= 0:
        return ink
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (lacking + 1, lacking + 1))
    paper = cv2.copyMakeBorder(ink, lacking, lacking, lacking, lacking, cv2.BORDER_CONSTANT)
    return np.asarray(cv2.dilate(paper, brush), np.uint8)


def shrink(picture: Gray, longest: int) -> Gray:
    """Return a picture, (H, W) or (H, W, 3) uint8, whose longer side has at most ``longest`` pixels."""
    height, width = picture.shape[:2]
    if max(height, width) <= longest:
        return picture
    size = tuple(max(1, round(side * longest / max(height, width))) for side in (width, height))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _crop(ink: Gray) -> Gray:
    left, top, width, height = cv2.boundingRect(ink)
    return ink[top : top + height, left : left + width]


def _fit_box(ink: Gray) -> Gray:
    """Scale the longer side to ``BOX`` pixels.

    ``INTER_LINEAR_EXACT`` alone skips pixels beyond a factor of two, and ``INTER_AREA`` is not bit-exact. So the ink is
    scaled by less than that factor to the nearest smaller doubling of the final size, and then halved again and again,
    each pixel the mean of four.
    """
    height, width = ink.shape
    longest = max(height, width)
    halvings = max(0, (longest // BOX).bit_length() - 1)
    for doubling in range(halvings, -1, -1):
        size = tuple(max(1, (side * BOX + longest // 2) // longest) << doubling for side in (width, height))
        ink = np.asarray(cv2.resize(ink, size, interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)
    return ink


def _offset(mass: npt.NDArray[np.uint64]) -> int:
    """Return where a profile starts in the frame so that its centre of mass lies nearest to the frame's centre."""
    total, length = int(mass.sum()), len(mass)
    moment = int((mass * np.arange(length, dtype=np.uint64)).sum())
    # round((SIDE - 1) / 2 - moment / total) in integers
    offset = ((SIDE - 1) * total - 2 * moment + total) // (2 * total)
    return min(max(offset, 0), SIDE - length)
