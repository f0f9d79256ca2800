"""The canvas: strokes, dots, the eraser, thickness."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_edge.runtime.draw.canvas import SIDE, THICKNESS, Canvas


def stroke(canvas: Canvas, *points: tuple[int, int], erase: bool = False) -> None:
    canvas.press(points[0], erase=erase)
    for point in points[1:]:
        canvas.move(point)
    canvas.release()


def test_a_stroke_is_as_wide_as_the_brush_and_joined_between_far_points() -> None:
    canvas = Canvas()
    stroke(canvas, (100, 50), (100, 350))
    assert canvas.ink.shape == (SIDE, SIDE)
    widths = (canvas.ink[60:340] > 127).sum(axis=1)
    assert set(widths.tolist()) <= {THICKNESS, THICKNESS + 1, THICKNESS + 2}  # its edges are soft


def test_a_click_leaves_a_dot() -> None:
    canvas = Canvas(9)
    stroke(canvas, (200, 200))
    assert (canvas.ink > 127).sum() == pytest.approx(np.pi * 4.5**2, rel=0.4)


def test_nothing_is_drawn_while_the_button_is_up() -> None:
    canvas = Canvas()
    canvas.move((10, 10))
    stroke(canvas, (50, 50))
    before = canvas.ink.copy()
    canvas.move((300, 300))
    assert np.array_equal(canvas.ink, before)
    assert not canvas.drawing


def test_a_stroke_that_leaves_the_canvas_ends_at_its_edge() -> None:
    canvas = Canvas()
    stroke(canvas, (200, 200), (900, 200))
    assert canvas.ink[200, -1] == 255


def test_the_eraser_takes_ink_away_and_is_wider_than_the_brush() -> None:
    canvas = Canvas()
    stroke(canvas, (50, 200), (350, 200))
    stroke(canvas, (200, 100), (200, 300), erase=True)
    assert not canvas.ink[:, 190:210].any()
    assert canvas.ink[200, 100] == 255
    stroke(canvas, (200, 200))  # the next stroke draws again
    assert canvas.ink[200, 200] == 255


def test_clearing_leaves_empty_paper_and_counts_as_a_change() -> None:
    canvas = Canvas()
    assert canvas.empty
    stroke(canvas, (50, 200), (350, 200))
    changes = canvas.changes
    assert not canvas.empty
    canvas.clear()
    assert canvas.empty
    assert canvas.changes > changes


def test_the_thickness_stays_within_its_limits() -> None:
    canvas = Canvas()
    for _ in range(100):
        canvas.change_thickness(2)
    assert canvas.thickness == 61
    for _ in range(100):
        canvas.change_thickness(-2)
    assert canvas.thickness == 1
    assert Canvas(1000).thickness == 61
