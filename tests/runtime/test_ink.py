from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from support.data.drawings import PLACES, Drawing, best_difference
from support.machines.commands import Ended
from support.models.bundles import encode, sample_image

from hybrid_edge.runtime import Classifier, photographed_frame
from hybrid_edge.runtime.commands import infer as command
from hybrid_edge.runtime.digits import drawn_frame
from hybrid_edge.runtime.errors import ImageError, InputError
from hybrid_edge.runtime.frame import Pixels
from hybrid_edge.runtime.ink import is_dark_on_light
from hybrid_edge.runtime.opencv import cv2

WHITE, BLACK, BEIGE, RED, GREEN = (235, 235, 235), (30, 30, 30), (160, 200, 215), (20, 20, 170), (50, 90, 40)
ONE_OF_EACH = slice(0, None, 4)


def lit(page: npt.NDArray[np.floating], noise: float = 4, quality: int = 80) -> Pixels:
    """A camera's picture of a page that gets half as much light at one corner as at the other."""
    height, width = page.shape[:2]
    light = np.add.outer(np.linspace(0.5, 0.75, height), np.linspace(0, 0.25, width))[..., None]
    grain = np.random.default_rng(0).normal(0, noise, page.shape)
    exposed = np.clip(cv2.GaussianBlur(page * light, (0, 0), 0.8) + grain, 0, 255).astype(np.uint8)
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", exposed, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1), np.uint8)


def photograph(
    ink: npt.NDArray[np.uint8],
    *,
    size: tuple[int, int] = (900, 600),
    height: int = 200,
    corner: tuple[int, int] = (560, 330),
    paper: tuple[int, int, int] = WHITE,
    pen: tuple[int, int, int] = BLACK,
    around: Callable[[npt.NDArray[np.floating]], object] = np.copy,
    noise: float = 4,
) -> Pixels:
    """A drawing on a page, ``height`` pixels high with its margins, and what else ``around`` puts on it."""
    small = cv2.resize(ink, (height, height), interpolation=cv2.INTER_AREA)[..., None] / 255
    page = np.full((size[1], size[0], 3), paper, np.float64)
    around(page)
    part = page[corner[1] : corner[1] + height, corner[0] : corner[0] + height]
    part[:] = part * (1 - small) + np.array(pen) * small
    return lit(page, noise)


def scribbles(page: npt.NDArray[np.floating]) -> None:
    for x, y in ((100, 80), (300, 450), (420, 120)):
        cv2.polylines(page, [np.array([(x, y), (x + 50, y + 9), (x + 8, y + 40), (x + 60, y + 50)])], False, BLACK, 5)


def dust(page: npt.NDArray[np.floating]) -> None:
    for x, y in np.random.default_rng(1).integers(0, 600, (60, 2)):
        cv2.circle(page, (int(x), int(y)), 2, BLACK, -1)


def table(page: npt.NDArray[np.floating]) -> None:
    cv2.polylines(page, [np.array([(0, 9), (899, 0), (880, 590), (12, 599)])], True, GREEN, 70)


def desk(page: npt.NDArray[np.floating], color: tuple[int, int, int] = GREEN, turned: float = 12) -> None:
    """A sheet that takes a sixth of the picture, askew on a desk."""
    page[:] = color
    cv2.fillPoly(page, [cv2.boxPoints(((650, 430), (310, 280), turned)).astype(np.int32)], WHITE)


def shadow(page: npt.NDArray[np.floating]) -> None:
    cv2.fillPoly(page, [np.array([(60, 60), (500, 200), (120, 500)])], (140, 140, 140))


def lines(page: npt.NDArray[np.floating]) -> None:
    page[::36] = page[1::36] = (235, 180, 150)


KINDS = {
    "black on white": {},
    "small": {"height": 80, "corner": (20, 500)},
    "large": {"size": (1500, 1000), "height": 450, "corner": (950, 20)},
    "upright": {"size": (480, 1400), "corner": (20, 1100)},
    "red on beige": {"paper": BEIGE, "pen": RED},
    "chalk": {"paper": GREEN, "pen": WHITE},
    "pencil": {"pen": (140, 140, 140)},
    "noisy": {"noise": 20},
    "among scribbles": {"around": scribbles},
    "among dust": {"around": dust},
    "on a table": {"around": table},
    "pencil on a table": {"around": table, "pen": (120, 120, 120)},
    "a sheet on a desk": {"around": desk},
    "a sheet on a black desk": {"around": partial(desk, color=BLACK, turned=0)},
    "beside a shadow": {"around": shadow},
    "on ruled paper": {"around": lines},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_photograph_gives_nearly_the_frame_of_the_drawing_on_it(kind: str, drawings: list[Drawing]) -> None:
    for drawing in drawings[ONE_OF_EACH]:
        ink = drawing.ink(300)
        frame = photographed_frame(photograph(ink, **KINDS[kind]))  # type: ignore[arg-type]
        assert best_difference(drawn_frame(ink), frame[:, :, 0]) < 0.35, drawing.shape


@pytest.mark.parametrize("place", PLACES)
def test_a_clean_drawing_and_its_negative_give_exactly_the_drawing_windows_frame(
    place: str, drawings: list[Drawing]
) -> None:
    for drawing in drawings[::3]:
        picture = np.repeat(drawing.ink(*PLACES[place])[:, :, None], 3, 2)
        frame = np.repeat(drawn_frame(picture[:, :, 0])[:, :, None], 3, 2)
        assert np.array_equal(photographed_frame(picture), frame), drawing.shape
        assert np.array_equal(photographed_frame(255 - picture), frame), drawing.shape


@pytest.mark.parametrize("negative", [False, True])
def test_a_frame_that_is_centred_already_stays_nearly_as_it_is(negative: bool, drawings: list[Drawing]) -> None:
    for drawing in drawings[ONE_OF_EACH]:
        frame = drawn_frame(drawing.ink(170))
        found = photographed_frame(np.repeat((255 - frame if negative else frame)[:, :, None], 3, 2))
        assert best_difference(frame, found[:, :, 0]) < 0.25, drawing.shape


BLANK = {
    "white": np.full((480, 640, 3), 255, np.uint8),
    "lit and noisy": lit(np.full((480, 640, 3), 230.0), 8),
    "dark": lit(np.full((480, 640, 3), 40.0), 8),
    "dust": photograph(np.zeros((9, 9), np.uint8), around=dust),
    "a pixel": np.zeros((1, 1, 3), np.uint8),
    "a line of pixels": np.full((1, 700, 3), 90, np.uint8),
}


@pytest.mark.parametrize("page", BLANK.values(), ids=BLANK)
def test_a_page_without_ink_is_no_digit(page: Pixels) -> None:
    with pytest.raises(ImageError, match="no ink found: expected strokes"):
        photographed_frame(page)


@pytest.mark.parametrize("shape", [(2, 3), (8, 8, 3), (9, 300, 3), (40, 30, 3), (700, 2, 3)])
def test_whatever_comes_is_a_frame_or_a_typed_error(shape: tuple[int, ...]) -> None:
    for seed in range(20):
        with suppress(ImageError, InputError):
            frame = photographed_frame(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))
            assert (frame.shape, frame.dtype) == ((28, 28, 3), np.uint8)


def test_only_dark_strokes_on_a_light_page_look_like_paper(drawings: list[Drawing]) -> None:
    ink = drawings[0].ink(300)
    for kind, options in KINDS.items():
        assert is_dark_on_light(photograph(ink, **options)) == (kind != "chalk"), kind  # type: ignore[arg-type]
    frame = np.repeat(drawn_frame(ink)[:, :, None], 3, 2)
    assert (is_dark_on_light(frame), is_dark_on_light(255 - frame)) == (False, True)
    broad = np.zeros((28, 28, 3), np.uint8)
    profile = [0, 0, 48, 255, 255, 191, 0, 0]  # a handwritten 1, which might be a sheet on a dark desk
    broad[4:24, 4:24] = np.interp(np.linspace(0, 7, 20), range(8), profile)[:, None]
    broad[4:6, 8:20] = broad[4:6, 8:20] // 2 + 60
    assert (is_dark_on_light(broad), is_dark_on_light(255 - broad)) == (False, True)
    assert not any(map(is_dark_on_light, (sample_image(3, 200, 300), BLANK["white"], BLANK["lit and noisy"])))


@pytest.fixture
def infer(reader: Path, call: Callable[..., Ended]) -> Callable[..., Ended]:
    return partial(call, "hybrid-infer", command.main, "--bundle", reader, "--threads", 1)


@pytest.fixture
def pages(tmp_path: Path, drawings: list[Drawing]) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    for number, drawing in enumerate(drawings[ONE_OF_EACH]):
        (folder / f"{number}.png").write_bytes(encode(photograph(drawing.ink(300))))
    return folder


def test_the_option_shows_the_model_the_digit_and_the_rest_of_the_run_the_photograph(
    infer: Callable[..., Ended], pages: Path, reader: Path, tmp_path: Path
) -> None:
    (pages / "blank.png").write_bytes(encode(BLANK["lit and noisy"]))
    done = infer(pages, "--digit", "--json", "--save", tmp_path / "out.mp4")
    *read, blank = done.lines
    assert done.code == 1
    assert (blank["source"], str(blank["error"])[:12]) == (str(pages / "blank.png"), "no ink found")
    assert f"unreadable: {pages / 'blank.png'}: no ink found" in done.err
    assert "--digit" not in done.err
    with Classifier.load(reader, threads=1) as classifier:
        frames = [photographed_frame(np.asarray(cv2.imread(str(line["source"])), np.uint8)) for line in read]
        assert [line["labels"][0] for line in read] == [item.label for item in classifier.predict(frames)]  # type: ignore[index]
    video = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    for frame in frames:
        picture = video.read()[1]
        shown = cv2.resize(picture[5:145, -145:-5], (28, 28), interpolation=cv2.INTER_AREA)  # 150 pixels, 5 of each
        assert np.abs(shown[..., 0].astype(int) - frame[..., 0]).mean() < 12
        assert picture[300:, :500].mean() > 100  # the paper


@pytest.mark.parametrize("negative", [False, True])
def test_a_hint_comes_once_and_only_where_ink_is_dark_on_light(
    infer: Callable[..., Ended], pages: Path, negative: bool
) -> None:
    if negative:
        for path in pages.iterdir():
            path.write_bytes(encode(255 - np.asarray(cv2.imread(str(path)), np.uint8)))
    done = infer(pages)
    assert done.code == 0
    assert done.err.count("--digit") == (0 if negative else 1)


def test_other_models_know_no_digits_and_give_no_hint(call: Callable[..., Ended], pages: Path, folder: Path) -> None:
    done = call("hybrid-infer", command.main, pages, "--bundle", folder, "--digit")
    assert (done.code, done.out) == (2, "")
    assert "expected a model of the labels 0 to 9 in 28x28 pixels, found 5 labels (apple, bicycle, cat" in done.err
    assert "--digit" not in call("hybrid-infer", command.main, pages, "--bundle", folder).err
