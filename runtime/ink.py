"""This module finds the digit in a photograph: what is ink, what is paper, and which strokes are the digit's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .digits import Gray, drawn_frame, shrink
from .errors import ImageError
from .frame import Pixels, check_pixels
from .opencv import cv2

PAGE = 640  # the longer side of the picture in which strokes are searched, pixels
LIGHTING = 160  # the longer side of the picture in which the light is measured, pixels
WIDEST = 3  # a stroke is at most a third as wide as the picture's shorter side; what is wider is a table, or a shadow
DIMMEST = 4  # where there is less than a quarter of the brightest light, contrast is not made of it: it would be noise
FAINTEST = 24  # of 255: what takes less than a tenth of the light is a crease, or the other side's ink
FAINTEST_CUT = 100  # the same at the picture's edge, where the light can't be told so well: two fifths
SHARES = (0.6, 0.4, 0.25, 0.15)  # of the most contrast there is, what a stroke has at least: the darkest digit counts
SMALLEST = 40  # a digit is at least a fortieth as long as the picture; what is shorter is dust
MOST_STROKES = 16  # that are looked at with each share, the largest first
SLENDER = 5  # the least area of a stroke, in squares of its half width; a disc has 3.1, a square 4, a bold 1 some 12
GROWTH = 2  # times as wide as in their darkest part are strokes at most; what is wider is a shadow on them
GAP = 10  # what is within a fifth (twice a tenth) of the longest stroke's length belongs to its digit
SPECK = 100  # what has less than a hundredth of that stroke's area does not
FULL = 90  # percentile of the ink's contrast that becomes 255: edges are fainter
HALO = 0.2  # of that, what a lens and JPEG may spread around strokes; where nothing is spread, edges stay as drawn
CLEAR_SKEW = 0.5  # skewness of the brightness, from which on ink is clearly the smaller part of a picture
NOISE_STEP = 4  # pixels between those by which noise is measured
LEAST_SHEET = (
    50  # a sheet on a table has at least a fiftieth of the picture's area; what has nine tenths is the picture
)
SHEET_FILL = 0.86  # of the rectangle around it, what a sheet covers at least; a disc has 0.79
SHEET_BLANK = 0.6  # of a sheet, what is paper at least; the rest may be ink
SHEET_ASPECT = 3  # times as long as wide is a sheet at most; a chalk 1 is longer
SHEET_RIM = 5  # side of the square by which a sheet is made smaller, pixels of ``LIGHTING``: its edge is blurred
PAPER = (20, 40)  # percentiles of the contrast, which are paper's
NOISE = 5.5  # times what lies between these two, from the second to three standard deviations above the mean


def photographed_frame(image: Pixels) -> Pixels:
    """Return the digit that a photograph shows, (28, 28, 3) uint8, gray in BGR, as ``drawn_frame`` gives a drawing.

    ``image`` is (H, W, 3) uint8, BGR, of any size. Ink may be dark on light or light on dark, coloured, small and off
    centre, the light uneven. Of several strokes apart from each other the darkest count, of these the largest; what the
    picture's edge cuts counts only where there is nothing else.

    Raises:
        ImageError: there is no ink, or too little of it.
        InputError: the image has another shape or type.
    """
    check_pixels(image)
    image = _sheet(image)
    page = _page(image)
    flip = 255 if _has_light_ink(page) else 0  # light ink on dark becomes dark on light
    page = page ^ np.uint8(flip)
    light = _lighting(page)
    digit = _find_digit(_contrast(page, light))
    frame = None if digit is None else drawn_frame(_ink(image, flip, light, digit))
    if frame is None or not frame.any():
        raise ImageError(
            "no ink found: expected strokes that are clearly darker or lighter than the paper around them, and longer "
            f"than a {SMALLEST}th of the picture"
        )
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), np.uint8)


def _sheet(image: Pixels) -> Pixels:
    """Return a light sheet that lies on something darker, cut out, with paper in place of what is around it.

    It is the image itself where no large light rectangle is seen.
    """
    gray = np.asarray(cv2.blur(cv2.cvtColor(shrink(image, LIGHTING), cv2.COLOR_BGR2GRAY), (3, 3)), np.uint8)
    light = np.asarray(cv2.threshold(gray, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1], np.uint8)
    outlines = cv2.findContours(light, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not outlines:
        return image
    largest = max(outlines, key=cv2.contourArea)
    filled = np.asarray(cv2.drawContours(np.zeros_like(light), [largest], -1, 1, cv2.FILLED), np.uint8)
    area = cv2.countNonZero(filled)
    width, height = sorted(cv2.minAreaRect(np.argwhere(filled).astype(np.float32))[1])
    if (
        not gray.size <= LEAST_SHEET * area <= LEAST_SHEET * 0.9 * gray.size
        or area < SHEET_FILL * (width + 1) * (height + 1)
        or cv2.countNonZero(light & filled) < SHEET_BLANK * area
        or height > SHEET_ASPECT * width
    ):
        return image
    inner = cv2.erode(filled, np.ones((SHEET_RIM, SHEET_RIM), np.uint8), borderValue=1)
    on_it = gray[inner > 0]
    if not on_it.size or np.ptp(on_it) < FAINTEST:  # with nothing on it, it is a stroke itself
        return image
    mask = cv2.resize(inner, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    x, y, width, height = cv2.boundingRect(mask)
    sheet, around = image[y : y + height, x : x + width].copy(), mask[y : y + height, x : x + width] == 0
    sheet[around] = np.median(sheet[~around], axis=0)
    return sheet


def _page(image: Pixels) -> Pixels:
    """Return the picture in a size in which strokes are searched: its longer side ``LIGHTING`` to ``PAGE`` pixels."""
    page = shrink(image, PAGE)
    factor = -(-LIGHTING // max(page.shape))
    size = (factor * page.shape[1], factor * page.shape[0])
    return page if factor == 1 else np.asarray(cv2.resize(page, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def is_dark_on_light(image: Pixels) -> bool:
    """Return whether a picture, (H, W, 3) uint8, looks like dark strokes on light paper.

    What is black all along its edge is drawn and no photograph: a broad light stroke is no sheet on a dark desk.
    """
    if not any(edge.any() for edge in (image[0], image[-1], image[:, 0], image[:, -1])):
        return False
    page = shrink(_sheet(image), LIGHTING)
    return float(np.median(page)) >= 128 and _skewness(page) < -CLEAR_SKEW


def _has_light_ink(page: Pixels) -> bool:
    """Return whether the ink is lighter than the paper; the picture's edge tells where the ink fills half of it."""
    skewness = _skewness(page)
    if abs(skewness) > CLEAR_SKEW:
        return skewness > 0
    edge = np.concatenate((page[0], page[-1], page[:, 0], page[:, -1]))
    return bool(edge.mean() < page.mean())


def _skewness(page: Pixels) -> float:
    """Return the skewness of the brightness without slow changes: ink is the minority, so negative where it is dark."""
    gray = cv2.cvtColor(shrink(page, LIGHTING), cv2.COLOR_BGR2GRAY).astype(np.float32)
    detail = gray - cv2.GaussianBlur(gray, (0, 0), max(gray.shape) / 8)
    detail -= detail.mean()
    spread = float(detail.std())
    return float((detail**3).mean()) / spread**3 if spread else 0.0


def _lighting(page: Pixels) -> Pixels:
    """Return what the page would look like without strokes: a closing fills what is dark and narrow."""
    small = shrink(page, LIGHTING)
    side = min(small.shape[:2]) // WIDEST | 1
    filled = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return np.asarray(cv2.resize(filled, page.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def _contrast(page: Pixels, light: Pixels) -> Gray:
    """Return how much of the light is missing, in the channel that lacks most: 255 = all of it."""
    white = _highest(light)
    missing = _highest(np.asarray(cv2.subtract(light, page), np.uint8))
    return np.asarray(cv2.divide(missing, np.maximum(white, white.max() // DIMMEST + 1), scale=255), np.uint8)


def _highest(page: npt.NDArray[np.uint8]) -> Gray:
    blue, green, red = cv2.split(page)
    return np.asarray(cv2.max(cv2.max(blue, green), red), np.uint8)


def _find_digit(contrast: Gray) -> Gray | None:
    """Return the digit's pixels as a mask, 0 and 1; None where there is no digit.

    Its darkest strokes are found first; fainter parts then join them, as long as the whole looks like strokes.
    """
    calm = np.asarray(cv2.blur(contrast, (3, 3)), np.uint8)
    most, noise = int(calm.max()), _noise(calm)
    for whole, faintest in ((True, FAINTEST), (False, FAINTEST_CUT)):
        digit: Gray | None = None
        for limit in (share * most for share in SHARES if share * most >= max(faintest, noise)):
            grown = _longest_stroke(calm > limit, digit, whole=whole)
            if grown is None and digit is not None:
                break
            digit = grown
        if digit is not None:
            return digit
    return None


def _noise(contrast: Gray) -> float:
    """Return the contrast that paper has by chance at most, told from its lower part, as half of a page may be ink."""
    low, middle = np.percentile(contrast[::NOISE_STEP, ::NOISE_STEP], PAPER)
    return float(middle + NOISE * (middle - low))


def _longest_stroke(dark: npt.NDArray[np.bool_], core: Gray | None, *, whole: bool) -> Gray | None:
    """Return the largest stroke, of those that share pixels with ``core`` where it is given, and what belongs to it.

    It is None where there is none, and with ``whole`` also where the picture's edge cuts it.
    """
    height, width = dark.shape
    _, parts, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8))
    x, y, widths, heights, area = stats.T
    length = np.maximum(widths, heights)
    cut = (x == 0) | (y == 0) | (x + widths == width) | (y + heights == height)
    suits = (length * SMALLEST >= max(height, width)) & ~(cut & whole)
    suits[0] = False  # the paper
    widest, belongs = np.inf, area > 0
    if core is not None:
        widest = GROWTH * _half_width(core)
        belongs = np.bincount(parts[core > 0], minlength=len(area)) > 0
    suits &= belongs
    strokes = np.flatnonzero(suits)
    for stroke in strokes[np.argsort(-area[strokes], kind="stable")][:MOST_STROKES]:
        box = slice(y[stroke], y[stroke] + heights[stroke]), slice(x[stroke], x[stroke] + widths[stroke])
        half_width = _half_width((parts[box] == stroke).astype(np.uint8))
        if half_width <= widest and area[stroke] >= SLENDER * half_width**2:
            near = belongs & (area * SPECK >= area[stroke]) & (~cut | (length <= length[stroke]))
            near[0] = False
            return _group(near[parts].astype(np.uint8), parts == stroke, int(length[stroke]))
    return None


def _half_width(strokes: Gray) -> float:
    """Return half the width of a mask's widest place, pixels."""
    padded = cv2.copyMakeBorder(strokes, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    return float(cv2.distanceTransform(padded, cv2.DIST_L2, 5).max()) - 0.5


def _group(near: Gray, stroke: npt.NDArray[np.bool_], length: int) -> Gray:
    """Return those pixels of ``near`` that reach the stroke over gaps that are small for its length."""
    reach = 2 * max(1, length // GAP) + 1
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    _, groups = cv2.connectedComponents(cv2.dilate(near, brush))
    return np.asarray(near * (groups == groups[stroke][0]), np.uint8)


def _ink(image: Pixels, flip: int, light: Pixels, digit: Gray) -> Gray:
    """Cut the digit out of the image in its full size, 255 = ink, 0 = paper; the last two are the page's."""
    x, y, width, height = cv2.boundingRect(digit)
    edge = 2 + max(width, height) // 20  # pixels of the page that a blurred stroke's edge has
    box = slice(max(0, y - edge), y + height + edge), slice(max(0, x - edge), x + width + edge)
    rows, columns = (
        slice(part.start * full // small, -(-min(part.stop, small) * full // small))
        for part, full, small in zip(box, image.shape, digit.shape, strict=False)
    )
    cut = image[rows, columns] ^ np.uint8(flip)
    size = cut.shape[1::-1]
    contrast = _contrast(cut, np.asarray(cv2.resize(light[box], size, interpolation=cv2.INTER_LINEAR), np.uint8))
    around = cv2.dilate(digit[box], np.ones((2 * edge - 1, 2 * edge - 1), np.uint8))
    inside = cv2.resize(around, size, interpolation=cv2.INTER_NEAREST) > 0
    strokes = cv2.resize(digit[box] * 255, size, interpolation=cv2.INTER_AREA) > 0  # some are left in any size
    beyond = contrast[inside & ~(cv2.dilate(strokes.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)]
    full = max(float(np.percentile(contrast[strokes], FULL)), 1.0)
    none = min(max(HALO * full, float(beyond.max())), full / 2) if beyond.any() else 0.0
    ink = np.clip((contrast - none) * (255 / (full - none)), 0, 255) * inside
    return np.asarray(np.rint(ink), np.uint8)
