import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from cv2 import connectedComponents
from support.data.drawings import PLACES, SIZE, STROKES, Drawing, best_difference

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.digits import BOX, PEN, SIDE, drawn_frame, mnist_frame
from hybrid_edge.runtime.draw.readers import Reader, read_drawing
from hybrid_edge.runtime.errors import InputError

Ink = npt.NDArray[np.uint8]


def drawn(digit: str, height: int = 400, stroke: int = 15) -> Ink:
    canvas = np.zeros((height, height), np.uint8)
    cv2.putText(
        canvas, digit, (height // 4, height * 3 // 4), cv2.FONT_HERSHEY_SIMPLEX, height / 44, 255, stroke, cv2.LINE_AA
    )
    return canvas


def cropped(ink: Ink) -> Ink:
    left, top, width, height = cv2.boundingRect(ink)
    return ink[top : top + height, left : left + width]


DIGITS = "0123456789"


@pytest.mark.parametrize("digit", DIGITS)
def test_the_centre_of_mass_lies_within_half_a_pixel_of_the_middle(digit: str) -> None:
    mass = mnist_frame(drawn(digit)).astype(float)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    centre = ((mass * rows).sum() / mass.sum(), (mass * columns).sum() / mass.sum())
    assert centre == pytest.approx((13.5, 13.5), abs=0.5 + 1e-9)


@pytest.mark.parametrize("digit", DIGITS)
def test_the_longer_side_is_twenty_pixels_and_the_aspect_is_kept(digit: str) -> None:
    ink = cropped(drawn(digit))
    frame = mnist_frame(ink)
    assert (frame.shape, frame.dtype) == ((SIDE, SIDE), np.uint8)
    rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(height, width) == BOX
    assert width / height == pytest.approx(ink.shape[1] / ink.shape[0], abs=1.5 / BOX)


@pytest.mark.parametrize("corner", [(0, 0), (0, 300), (300, 0), (300, 300), (150, 20)])
def test_ink_moved_to_a_corner_gives_the_same_frame(corner: tuple[int, int]) -> None:
    ink = cropped(drawn("5", 200, 8))
    canvas = np.zeros((500, 500), np.uint8)
    canvas[corner[0] : corner[0] + ink.shape[0], corner[1] : corner[1] + ink.shape[1]] = ink
    assert np.array_equal(mnist_frame(canvas), mnist_frame(ink))


@pytest.mark.parametrize("digit", DIGITS)
@pytest.mark.parametrize("height", [200, 800, 1130])
def test_ink_of_half_or_double_size_gives_nearly_the_same_frame(digit: str, height: int) -> None:
    frame, other = mnist_frame(drawn(digit)), mnist_frame(drawn(digit, height, 15 * height // 400))
    assert best_difference(frame, other) < 0.2  # OpenCV 4.10: 0.18, 5.0: 0.15


def test_a_thin_line_on_a_large_canvas_does_not_vanish_between_samples() -> None:
    canvas = np.zeros((2000, 2000), np.uint8)
    for x in range(0, 2000, 100):
        canvas[:, x : x + 5] = 255
    frame = mnist_frame(canvas)
    ink = cropped(frame).astype(float)
    expected = cropped(canvas).mean()
    assert ink.mean() == pytest.approx(expected, rel=0.15)
    assert ink[2:-2, 2:-2].min() > 0


def test_eight_pixel_digits_are_scaled_up_smoothly() -> None:
    small = np.zeros((8, 8), np.uint8)
    small[1:7, 3:5] = 255
    small[3:5, 1:7] = 128
    frame = mnist_frame(small)
    assert cropped(frame).shape == (20, 20)
    assert len(np.unique(frame)) > 8


def test_an_empty_canvas_gives_an_empty_frame() -> None:
    for shape in ((400, 400), (1, 1), (0, 0), (3, 0)):
        frame = mnist_frame(np.zeros(shape, np.uint8))
        assert (frame.shape, frame.dtype, int(frame.sum())) == ((28, 28), np.uint8, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (27, 33)])
def test_specks_and_lines_fit_in_the_frame(shape: tuple[int, int]) -> None:
    frame = mnist_frame(np.full(shape, 255, np.uint8))
    assert frame.max() == 255
    assert max(cropped(frame).shape) == BOX


def test_lopsided_ink_stays_whole_inside_the_frame() -> None:
    ink = np.zeros((200, 200), np.uint8)
    ink[:20] = 255
    ink[:, :2] = 40
    assert max(cropped(mnist_frame(ink)).shape) == BOX


@pytest.mark.parametrize("framed", [mnist_frame, drawn_frame])
def test_ink_so_faint_that_none_is_left_at_that_size_gives_an_empty_frame(framed: Callable[[Ink], Ink]) -> None:
    ink = np.zeros((80, 80), np.uint8)
    ink[0, 0] = ink[79, 70] = 1
    frame = framed(ink)
    assert frame.shape == (SIDE, SIDE)
    assert not frame.any()


def test_a_view_that_is_not_contiguous_is_taken_and_only_read() -> None:
    ink = drawn("7")
    before = ink.copy()
    assert np.array_equal(mnist_frame(ink[::2, ::2]), mnist_frame(np.ascontiguousarray(ink[::2, ::2])))
    assert np.array_equal(mnist_frame(ink[:, ::-1]), mnist_frame(np.ascontiguousarray(ink[:, ::-1])))
    assert np.array_equal(ink, before)


@pytest.mark.parametrize(("thickness", "expected"), [(3, PEN), (15, PEN), (30, PEN), (60, 60 / 380 * BOX)])
def test_thin_strokes_are_thickened_to_a_pen_and_wide_ones_are_kept(thickness: int, expected: float) -> None:
    canvas = np.zeros((400, 400), np.uint8)
    cv2.rectangle(canvas, (100, 10), (100 + thickness - 1, 389), 255, cv2.FILLED)
    frame = drawn_frame(canvas)
    rows = frame[9:19].astype(float)
    assert (rows.sum(axis=1) / rows.max(axis=1)).mean() == pytest.approx(expected, abs=0.5)
    assert max(cropped(frame).shape) == BOX


@pytest.mark.parametrize("digit", DIGITS)
def test_a_digit_drawn_at_double_size_with_the_same_brush_gives_nearly_the_same_frame(digit: str) -> None:
    assert best_difference(drawn_frame(drawn(digit, 400, 12)), drawn_frame(drawn(digit, 800, 12))) < 0.25


def test_a_drawing_of_a_bold_pen_or_of_none_is_framed_as_it_is() -> None:
    bold = drawn("5", 200, 30)
    assert best_difference(drawn_frame(bold), mnist_frame(bold)) < 0.1
    assert not drawn_frame(np.zeros((400, 400), np.uint8)).any()
    faint = np.full((3, 3), 40, np.uint8)
    assert np.array_equal(drawn_frame(faint), mnist_frame(faint))


@pytest.mark.parametrize("ink", [np.zeros((8, 8), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros(8, np.uint8)])
def test_other_shapes_and_types_are_refused_with_what_came(ink: Ink) -> None:
    with pytest.raises(InputError, match=r"expected ink of shape \(H, W\), uint8.*found shape"):
        mnist_frame(ink)
    with pytest.raises(InputError, match=r"expected ink of shape \(H, W\), uint8.*found shape"):
        drawn_frame(ink)


# as they were committed, before any training
SHA256 = "27d9cfbf6ba1f6e23ed1672fda8e782f262b72e0d74b716c82b546fe9e5e1fa9"


def test_the_drawings_are_those_that_were_made_before_any_training() -> None:
    assert hashlib.sha256(STROKES.read_bytes()).hexdigest() == SHA256


@pytest.fixture(scope="module")
def read(drawings: list[Drawing], reader: Path) -> dict[str, list[str]]:
    """What a classifier reads in all drawings, at each place."""
    with Classifier.load(reader, threads=1) as classifier:
        models = [Reader("reader", classifier)]
        return {
            name: [read_drawing(models, drawn_frame(drawing.ink(*place)))[0].prediction.label for drawing in drawings]
            for name, place in PLACES.items()
        }


@pytest.mark.parametrize("place", PLACES)
def test_a_drawing_is_read_as_well_in_a_corner_or_another_size_as_in_the_middle(
    place: str, read: dict[str, list[str]], drawings: list[Drawing]
) -> None:
    right = [label == str(drawing.digit) for label, drawing in zip(read[place], drawings, strict=True)]
    middle = [label == str(drawing.digit) for label, drawing in zip(read["centre"], drawings, strict=True)]
    assert sum(right) >= 28  # a linear classifier: it reads 32 to 36
    assert sum(right) >= sum(middle) - 2


@pytest.mark.parametrize("size", [SIZE / 2, SIZE, SIZE * 2])
def test_no_drawing_is_torn_or_thinner_than_a_pen(size: float, drawings: list[Drawing]) -> None:
    for drawing in drawings:
        frame = drawn_frame(drawing.ink(size))
        parts, _ = connectedComponents((drawing.ink(size) > 127).astype(np.uint8))
        seen, _ = connectedComponents((frame > 60).astype(np.uint8))
        assert seen <= parts, drawing.shape
        assert np.sort(frame.ravel())[-20:].min() > 200, drawing.shape
