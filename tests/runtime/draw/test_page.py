import numpy as np
import pytest

from hybrid_edge.runtime.canvas.pictures import ACCENT, TRACK
from hybrid_edge.runtime.canvas.text import Color
from hybrid_edge.runtime.classifier import Prediction
from hybrid_edge.runtime.draw.page import HEIGHT, PAPER_BOX, WIDTH, View, draw_page
from hybrid_edge.runtime.draw.paper import PAPER_SIDE, THICKNESS, Paper
from hybrid_edge.runtime.draw.readers import Reading
from hybrid_edge.runtime.frame import Pixels

LABELS = tuple("0123456789")
NAMES = [("cnn", "fp32-cpu"), ("rnn", "fp32-cpu"), ("hybrid", "int8-cpu")]


def answer(best: int, share: float, labels: tuple[str, ...] = LABELS, name: str = "cnn") -> Reading:
    probabilities = np.full(len(labels), (1 - share) / (len(labels) - 1), np.float32)
    probabilities[best] = share
    return Reading(name, "fp32-cpu", Prediction(labels, probabilities, np.log(probabilities), 0.1, 0.2))


def view(count: int = 1, **changes: object) -> View:
    ink = np.zeros((400, 400), np.uint8)
    return View(**{"ink": ink, "frame": None, "names": NAMES[:count], **changes})  # type: ignore[arg-type]


def bright(page: Pixels) -> int:
    return int((np.abs(page[:, 600:].astype(int) - ACCENT).max(axis=2) <= 3).sum())


def test_the_canvas_lies_in_the_middle_of_a_square_of_600() -> None:
    ink = np.zeros((400, 400), np.uint8)
    ink[0, 0] = ink[-1, -1] = 255
    page = draw_page(view(ink=ink))
    assert page.shape == (HEIGHT, WIDTH, 3) == (600, 940, 3)
    assert PAPER_BOX.view(page)[:, :, 0].sum() == 2 * 255
    assert tuple(page[100, 100]) == tuple(page[499, 499]) == (255, 255, 255)


def test_the_frame_that_the_models_see_is_shown_pixel_for_pixel() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    page = draw_page(view(frame=frame))
    assert np.array_equal(page[8:92:3, 416:500:3, 0], frame)


@pytest.mark.parametrize("count", [1, 3])
def test_a_bar_is_as_long_as_its_probability_and_the_best_is_marked_also_under_one_half(count: int) -> None:
    none, less, more = (
        bright(draw_page(view(count, readings=[answer(3, share)] * count if share else []))) for share in (0, 0.45, 0.9)
    )
    assert none == 0
    assert more > 1.5 * less > 0


def test_many_labels_fit() -> None:
    labels = tuple(f"a rather long label number {number}" for number in range(200))
    assert bright(draw_page(view(2, readings=[answer(150, 0.9, labels), answer(7, 0.5)]))) > 0


def tops(page: Pixels, color: Color, least: int) -> list[int]:
    """Where something begins that has so many pixels of a colour in each of its lines."""
    lines = (page[:, 600:] == color).all(axis=2).sum(axis=1) >= least
    return [int(top) for top in np.flatnonzero(lines & ~np.roll(lines, 1))]


@pytest.mark.parametrize("count", [1, 3, 4, 6, 8])
def test_rows_are_high_enough_to_be_read_and_show_the_best_labels_where_not_all_fit(count: int) -> None:
    names = [(f"model {number}", "fp32-cpu") for number in range(count)]
    page = draw_page(view(names=names, readings=[answer(7, 0.9)] * count))
    rows = tops(page, TRACK, 10)
    assert len(rows) == count * {1: 10, 3: 10, 4: 10, 6: 5, 8: 3}[count]
    assert np.diff(rows).min() >= 11
    assert len(tops(page, ACCENT, 200)) == count


def test_outdated_answers_are_gray_and_darker() -> None:
    names = NAMES[:2]
    fresh, old = (draw_page(view(names=names, readings=[answer(3, 0.9)] * 2, outdated=old)) for old in (False, True))
    assert bright(fresh) > 1000
    assert bright(old) == 0
    assert (np.ptp(old[:, 600:].astype(int), axis=2) < 20).all()  # no colour
    assert old[40:290, 600:].max() < fresh[40:290, 600:].max() - 50
    assert tops(old, TRACK, 10) == tops(fresh, TRACK, 10) != []


def test_the_pointer_is_drawn_as_wide_as_the_brush() -> None:
    page = PAPER_BOX.view(draw_page(view(thickness=41, pointer=(200, 200))))
    rows, columns = np.nonzero(page.any(axis=2))
    assert np.ptp(rows) == pytest.approx(41, abs=2)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(200, abs=1)


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


def test_a_click_leaves_a_dot_and_nothing_is_drawn_while_the_button_is_up() -> None:
    paper = Paper(9)
    paper.move((10, 10))
    stroke(paper, (200, 200))
    paper.move((300, 300))
    assert (paper.ink > 127).sum() == pytest.approx(np.pi * 4.5**2, rel=0.4)
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


@pytest.mark.parametrize(("by", "limit"), [(2, 61), (-2, 1)])
def test_the_thickness_stays_within_its_limits(by: int, limit: int) -> None:
    paper = Paper()
    for _ in range(100):
        paper.change_thickness(by)
    assert paper.thickness == Paper(100 * by).thickness == limit
