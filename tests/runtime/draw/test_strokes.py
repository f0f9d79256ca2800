"""The forty drawings: unaltered, and read the same wherever on the canvas and however large they are drawn."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cv2 import connectedComponents
from support.data.drawings import PLACES, SIZE, STROKES, Drawing

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.draw.digits import drawn_frame
from hybrid_edge.runtime.draw.readers import Reader, read_drawing

# as they were committed, before any training
SHA256 = "27d9cfbf6ba1f6e23ed1672fda8e782f262b72e0d74b716c82b546fe9e5e1fa9"


def test_the_drawings_are_those_that_were_made_before_any_training() -> None:
    assert hashlib.sha256(STROKES.read_bytes()).hexdigest() == SHA256


def test_there_are_four_drawings_of_each_digit_each_in_its_own_box(drawings: list[Drawing]) -> None:
    assert Counter(drawing.digit for drawing in drawings) == dict.fromkeys(range(10), 4)
    for drawing in drawings:
        points = np.vstack([np.array(line) for line in drawing.strokes])
        assert points.min() == 0
        assert points.max() == 1


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
