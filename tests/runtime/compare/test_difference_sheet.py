from pathlib import Path

import numpy as np
import pytest

from hybrid_edge.runtime import Prediction, UsageError, read_image
from hybrid_edge.runtime.canvas import sheet
from hybrid_edge.runtime.canvas.sheet import GREEN, RED, Cell, Line, draw_sheet
from hybrid_edge.runtime.compare import difference_sheet
from hybrid_edge.runtime.compare.answers import Answers
from hybrid_edge.runtime.compare.difference_sheet import Differences
from hybrid_edge.runtime.frame import Frame

LABELS = ("cat", "dog", "cow")


def solid(color: tuple[int, int, int], height: int = 40, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def prediction(*probabilities: float) -> Prediction:
    values = np.array(probabilities, np.float32)
    return Prediction(LABELS, values, np.log(values), 0.1, 0.2)


def answers(color: tuple[int, int, int], first: Prediction, second: Prediction, truth: str | None = "cat") -> Answers:
    return Answers(Frame("a.png", 0, solid(color)), truth, {"one": first, "two": second})


def near(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    """How many pixels have a colour, or nearly: OpenCV 4's thin strokes are blended with what is behind them."""
    return int((np.abs(pixels.astype(int) - color).max(axis=2) <= 20).sum())


def test_each_cell_has_its_picture_and_its_coloured_lines() -> None:
    cells = [Cell(solid((255, 0, 0)), (Line("a", "1 %", GREEN),)), Cell(solid((0, 0, 255)), (Line("b", color=RED),))]
    drawn = draw_sheet(cells, "two")
    first, second = drawn[:, :176], drawn[:, 176:]
    assert near(first, (255, 0, 0)) == near(second, (0, 0, 255)) == 128 * 128
    assert near(first, GREEN) > 0 == near(second, GREEN)
    assert near(second, RED) > 0 == near(first, RED)


def test_a_sheet_is_wide_enough_for_its_title_and_has_as_many_rows_as_it_needs() -> None:
    cell = Cell(solid((9, 9, 9)), ())
    narrow = draw_sheet([cell], "a title that is much wider than one cell of the sheet is")
    assert narrow.shape[1] > 300
    one, two = (draw_sheet([cell] * count, "").shape[0] for count in (6, 7))
    assert two - one >= 128
    assert draw_sheet([], "none").size


@pytest.mark.parametrize(("height", "width"), [(400, 200), (20, 30), (1, 5000)])
def test_a_picture_of_any_size_is_kept_small(height: int, width: int, tmp_path: Path) -> None:
    differences = Differences()
    predictions = {"one": prediction(0.9, 0.05, 0.05), "two": prediction(0.1, 0.6, 0.3)}
    differences.add(Answers(Frame("a.png", 0, solid((255, 0, 0), height, width)), None, predictions))
    differences.write(tmp_path / "sheet.png", 1)
    blue = np.argwhere((read_image(tmp_path / "sheet.png") == (255, 0, 0)).all(axis=2))
    shape = np.ptp(blue, axis=0) + 1
    assert 0 < max(shape) <= 156  # the width of a cell
    assert shape[0] / shape[1] == pytest.approx(height / width, rel=0.02, abs=0.01)


def test_the_surest_contradictions_are_kept_and_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference_sheet, "MAX_PICTURES", 2)
    red, green, blue, white = (0, 0, 250), (0, 250, 0), (250, 0, 0), (250, 250, 250)
    sure, unsure = prediction(0.9, 0.05, 0.05), prediction(0.4, 0.3, 0.3)
    differences = Differences()
    differences.add(answers(blue, unsure, prediction(0.2, 0.6, 0.2)))  # 0.4
    differences.add(answers(red, sure, prediction(0.1, 0.8, 0.1)))  # 0.8
    differences.add(answers(white, sure, sure))  # the same answer
    differences.add(answers(green, sure, prediction(0.3, 0.2, 0.5)))  # 0.5
    assert differences.count == 3
    differences.write(tmp_path / "sheet.png", 4)
    drawn = read_image(tmp_path / "sheet.png")
    places = {name: np.argwhere((drawn == color).all(axis=2)) for name, color in (("red", red), ("green", green))}
    assert len(places["red"])
    assert places["red"][:, 1].max() < places["green"][:, 1].min()
    assert not (drawn == blue).all(axis=2).any()
    assert near(drawn, GREEN) > 0 < near(drawn, RED)


def test_a_contradiction_is_as_sure_as_the_less_sure_of_its_two_sides() -> None:
    first, second, third = prediction(0.9, 0.05, 0.05), prediction(0.1, 0.6, 0.3), prediction(0.2, 0.1, 0.7)
    found = Answers(Frame("a.png", 0, solid((0, 0, 0))), None, {"one": first, "two": second, "three": third})
    assert found.contradiction == pytest.approx(0.7)
    assert answers((0, 0, 0), first, first).contradiction == 0


def test_a_place_where_nothing_may_be_written_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:  # as in a folder of another user, which root does not have
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sheet, "write_bytes", refuse)
    with pytest.raises(UsageError, match=r"expected a place for the contact sheet, found: Permission denied"):
        Differences().write(tmp_path / "sheet.png", 0)
