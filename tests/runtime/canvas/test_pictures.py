import numpy as np
import pytest

from hybrid_edge.runtime.canvas.pictures import ACCENT, MUTED, TRACK, Bars, blank, caption, dim, fit, text_row
from hybrid_edge.runtime.canvas.text import Font, StrokeFont, TrueTypeFont, default_font
from hybrid_edge.runtime.console import percent
from hybrid_edge.runtime.frame import Pixels
from hybrid_edge.runtime.opencv import cv2

needs_truetype = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 has no TrueType fonts")
FONTS = [pytest.param(TrueTypeFont, marks=needs_truetype), StrokeFont]


def drawn(font: Font, text: str) -> Pixels:
    picture = np.zeros((60, 400, 3), np.uint8)
    font.draw(picture, text, (10, 40), 24, (255, 255, 255))
    return picture


@needs_truetype
def test_labels_of_many_scripts_are_drawn_as_they_are() -> None:
    font = TrueTypeFont()
    labels = ["Größe", "écureuil", "кошка", "γάτα", "猫", "ねこ", "고양이"]
    assert [font.drawable(label) for label in labels] == labels
    pictures = [drawn(font, label).tobytes() for label in labels]
    assert len(set(pictures)) == len(labels)
    assert all(drawn(font, "?" * len(label)).tobytes() not in pictures for label in labels)


@pytest.mark.parametrize("make", FONTS)
def test_what_a_font_lacks_is_spelled_out_and_never_a_question_mark(make: type[Font]) -> None:
    font = make()
    assert font.drawable("\U0001f408 cat") == "\\U0001f408 cat"
    assert font.drawable("is it a cat?") == "is it a cat?"
    assert font.drawable("two\nlines\x1b[31m") == "two\\nlines\\x1b[31m"


def test_without_truetype_accents_are_taken_off_and_other_scripts_become_code_points() -> None:
    font = StrokeFont()
    assert font.drawable("Größe, écureuil, Łódź") == "Grosse, ecureuil, Lodz"
    assert font.drawable("e\u0301") == "e"  # an accent of its own
    assert font.drawable("猫") == "\\u732b"
    assert font.drawable("猫") != font.drawable("犬")  # question marks would be the same


@pytest.mark.parametrize("make", FONTS)
def test_long_text_is_cut_to_the_room_at_the_end_or_at_the_start(make: type[Font]) -> None:
    font = make()
    text = "a golden retriever that has a name without an end"
    for room in (60, 100, 200):
        end, start = font.cut(text, 16, room), font.cut(text, 16, room, keep_end=True)
        assert end[:3] == text[:3]
        assert start[-3:] == text[-3:]
        assert all(font.width(cut, 16) <= room for cut in (end, start))
        assert all(font.width(cut, 16) > room - 30 for cut in (end, start))  # no more than needed
    assert font.cut(text, 16, 1000) == text
    assert font.cut(text, 16, 1) == ""


@pytest.mark.parametrize("make", FONTS)
@pytest.mark.parametrize("size", [12, 18, 32])
def test_text_is_as_wide_as_measured_and_no_higher_than_its_size(make: type[Font], size: int) -> None:
    font = make()
    picture = np.zeros((100, 600, 3), np.uint8)
    font.draw(picture, "Hamburg 99.9 %", (10, 60), size, (255, 255, 255))
    rows, columns = np.flatnonzero(picture.any(axis=(1, 2))), np.flatnonzero(picture.any(axis=(0, 2)))
    assert columns[-1] - 10 == pytest.approx(font.width("Hamburg 99.9 %", size), abs=size / 4)
    assert size / 2 < rows[-1] - rows[0] <= 1.3 * size


def test_bars_begin_in_one_column_whatever_the_labels_are_and_are_as_long_as_their_probability() -> None:
    labels = ("cat", "Größe", "猫", "a label that is longer than all of the others, and than half of the picture")
    picture = blank(500, 120)
    Bars(labels).draw(picture, [(labels[3], 0.6), (labels[0], 0.3), (labels[2], 0.1), (labels[1], 0.0)], 16, 30)
    starts, lengths = [], []
    for line in range(4):
        middle = picture[line * 30 + 15]
        bar = (middle == (MUTED if line else ACCENT)).all(axis=1)
        track = np.flatnonzero(bar | (middle == TRACK).all(axis=1))
        starts.append((track[0], track[-1]))
        lengths.append(bar.sum() / len(track))
    assert len(set(starts)) == 1
    assert starts[0][0] > 100
    assert starts[0][1] < 500 - 40  # the percentages' column
    assert lengths == pytest.approx([0.6, 0.3, 0.1, 0.0], abs=0.01)


def test_only_certainty_is_a_hundred_percent() -> None:
    assert [percent(value) for value in (1.0, 0.99999, 0.5, 0.0004)] == ["100.0 %", "99.9 %", "50.0 %", "0.0 %"]


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 50), (200, 100)), ((50, 100), (75, 150)), ((800, 100), (200, 25))]
)
def test_pictures_keep_their_proportions(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = blank(200, 150)
    box = fit(np.full((size[1], size[0], 3), 255, np.uint8), picture)
    assert (box.width, box.height) == expected
    assert (picture == 255).all(axis=2).sum() == expected[0] * expected[1]
    assert abs(200 - box.width - 2 * box.x) <= 1  # in the middle


def test_a_tiny_picture_grows_in_sharp_squares() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = blank(100, 100)
    box = fit(image, picture)
    assert (box.width, box.height) == (96, 96)
    assert np.array_equal(box.view(picture)[5::12, 5::12], image)


def test_dimming_takes_color_and_light() -> None:
    picture = np.full((4, 4, 3), (0, 0, 255), np.uint8)
    dim(picture)
    assert (picture == picture[0, 0, 0]).all()
    assert picture.max() < 60


@pytest.mark.parametrize("width", [60, 100, 800])
def test_lines_fit_pictures_of_any_width(width: int) -> None:
    picture = blank(width, 60)
    text_row(picture[:30], "rtsp://a/very/long/address/of/a/stream", "frame 123456", 14)
    caption(picture, "golden retriever", 0.941, "2026-11-22 04:09:13  #77", 14)
    assert picture.max() > 100
    assert default_font() is default_font()
