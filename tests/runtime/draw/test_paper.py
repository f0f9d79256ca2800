"""The paper: strokes, dots, the eraser, thickness."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_edge.runtime.draw.paper import PAPER_SIDE, THICKNESS, Paper


def stroke(paper: Paper, *points: tuple[int, int], erase: bool = False) -> None:
    paper.press(points[0], erase=erase)
    for point in points[1:]:
        paper.move(point)
    paper.release()


def test_a_stroke_is_as_wide_as_the_brush_and_joined_between_far_points() -> None:
    paper = Paper()
    stroke(paper, (100, 50), (100, 350))
    assert paper.ink.shape == (PAPER_SIDE, PAPER_SIDE)
    widths = (paper.ink[60:340] > 127).sum(axis=1)
    assert set(widths.tolist()) <= {THICKNESS, THICKNESS + 1, THICKNESS + 2}  # its edges are soft


def test_a_click_leaves_a_dot() -> None:
    paper = Paper(9)
    stroke(paper, (200, 200))
    assert (paper.ink > 127).sum() == pytest.approx(np.pi * 4.5**2, rel=0.4)


def test_nothing_is_drawn_while_the_button_is_up() -> None:
    paper = Paper()
    paper.move((10, 10))
    stroke(paper, (50, 50))
    before = paper.ink.copy()
    paper.move((300, 300))
    assert np.array_equal(paper.ink, before)
    assert not paper.drawing


def test_a_stroke_that_leaves_the_paper_ends_at_its_edge() -> None:
    paper = Paper()
    stroke(paper, (200, 200), (900, 200))
    assert paper.ink[200, -1] == 255


def test_the_eraser_takes_ink_away_and_is_wider_than_the_brush() -> None:
    paper = Paper()
    stroke(paper, (50, 200), (350, 200))
    stroke(paper, (200, 100), (200, 300), erase=True)
    assert not paper.ink[:, 190:210].any()
    assert paper.ink[200, 100] == 255
    stroke(paper, (200, 200))  # the next stroke draws again
    assert paper.ink[200, 200] == 255


def test_clearing_leaves_empty_paper_and_counts_as_a_change() -> None:
    paper = Paper()
    assert paper.empty
    stroke(paper, (50, 200), (350, 200))
    changes = paper.changes
    assert not paper.empty
    paper.clear()
    assert paper.empty
    assert paper.changes > changes


def test_the_thickness_stays_within_its_limits() -> None:
    paper = Paper()
    for _ in range(100):
        paper.change_thickness(2)
    assert paper.thickness == 61
    for _ in range(100):
        paper.change_thickness(-2)
    assert paper.thickness == 1
    assert Paper(1000).thickness == 61
