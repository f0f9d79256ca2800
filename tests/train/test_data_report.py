from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from support.data.image_folders import PHOTO, add, numbered

from hybrid_edge.runtime import console
from hybrid_edge.runtime.errors import DataError
from hybrid_edge.train import command

pytestmark = pytest.mark.usefixtures("own_cache")

DEEP = cv2.normalize(cv2.cvtColor(PHOTO, cv2.COLOR_BGR2GRAY), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint16)
# 16 x 16 at 4,000 of 4,095, which says that it has 12 bits, and OpenCV scales it by these (FFmpeg's libopenjpeg)
JP2_OF_12_BITS = base64.b85decode(
    "0000CYEU2`4GM<}0000KW^{RQYH%_j00000YH%_j0000jYH%`W0000MX=r3}0000G0000G009dJ0000001sntY;pkr000005dZ)Hs%mgDWB*V8"
    "Q2;3b000005C8xG5C8xG00000000005C8xG5C8xG000000003C0RjI~01N;C009611Oxy9|6BkBKw$r503`qcLvm$dbY)~9VtF7>aAj^vP(?=|"
    "c4cyNX>V>IGA=bPF#nJM3IG5A001}u0soWF<eU&#YTD%XjxR1m000003?wD{Hh2I47)VR@^)LVcFp!t+pS*yn5C7Q"
)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """What ``hybrid-train DATA --check-only`` prints on stdout and stderr, each line whole; TensorFlow stays away."""
    monkeypatch.setattr(command, "import_tensorflow", lambda: pytest.fail("TensorFlow was imported"))
    monkeypatch.setattr(console.stdout, "_width", 200)
    monkeypatch.setattr(console.status, "_width", 1000)

    def printed(data: Path, **flags: Path) -> tuple[str, str]:
        command.train(data, check_only=True, **flags)  # type: ignore[arg-type]
        return capsys.readouterr()

    return printed


def save(path: Path, pixels: npt.NDArray[np.uint16]) -> None:
    assert cv2.imwrite(str(path), pixels)


def splits(root: Path) -> None:
    for number, place in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        add(root / place, *[f"{number}-{name}" for name in numbered(2)])
        for image in (root / place).iterdir():  # no two alike
            save(image, cv2.imread(str(image))[:, number * 9 :])


def copied_split(root: Path) -> None:
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train", root / "val")


def saved_again(root: Path) -> None:
    save(root / "val/cat/again.png", cv2.imread(str(root / "train/cat/0-000.jpg")))


def under_another_label(root: Path) -> None:
    shutil.copy(root / "train/cat/0-000.jpg", root / "train/dog/zzz.jpg")
    saved_again(root)
    (root / "val/cat/again.png").rename(root / "train/dog/zzzz.png")


def deep(suffix: str, factor: int, shape: tuple[int, ...] = ()) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        pixels = DEEP if not shape else np.dstack([DEEP] * 3 + [np.full_like(DEEP, 65535 // factor)] * (shape[0] - 3))
        save(root / f"train/cat/deep.{suffix}", pixels * np.uint16(factor))

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            copied_split,
            r"4 of the 4 validation images are training images too, by content \(val/cat/0-000.jpg = train/",
        ),
        (saved_again, r"1 of the 5 validation .* \(val/cat/again.png = train/cat/0-000.jpg\): accuracy is memory"),
        (under_another_label, r"1 picture is in two classes, by content \(train/cat/0-000.jpg = train/dog/zzz.jpg, "),
        (deep("png", 16), r"1 of 1 pictures of 16 bits fill 12 of them \(values \d+ to 4,080\).*Multiply 16 NEW"),
        (deep("png", 4, (4,)), r"fill 10 of them .*Multiply 64 NEW"),  # alpha is no part of the picture
        (deep("tif", 64), r"fill 14 of them .*Multiply 4 NEW"),
        (deep("pgm", 16), r"fill 12 of them"),
        (deep("jp2", 16), r"fill 12 of them"),
        (deep("ppm", 1, (3,)), r"fill 8 of them"),
        (
            lambda root: save(root / "train/cat/ct.png", DEEP + np.uint16(2**15 - 99)),
            r"values 32,\d+ to 32,924; .* in 2 shades",
        ),
        (
            lambda root: save(root / "train/cat/ct.tif", DEEP.astype(np.int16) * 8 - 1024),
            r"values -1,\d+ to 1,016; .* in 8 shades, and what lies below 0 is light\. Spread",
        ),
        (lambda _: None, r"warning: 4 validation images show top-1 to about ±35 points"),
    ],
)
def test_what_misleads_a_training_is_said_in_a_line(
    report: Callable[..., tuple[str, str]], tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    splits(tmp_path)
    make(tmp_path)
    for _ in range(2):  # the second time from what is remembered
        said = [line for line in report(tmp_path)[1].splitlines() if line.startswith("warning: ")]
        assert len([line for line in said if re.search(message, line)]) == 1
        assert len(said) <= 2  # few images to validate on, and the line that is asked for


@pytest.mark.parametrize(
    ("make", "absent"),
    [
        (deep("png", 256), "16 bits fill"),  # all of the range
        (lambda root: (root / "train/cat/scaled.jp2").write_bytes(JP2_OF_12_BITS), "16 bits"),
        (lambda root: shutil.copy(root / "train/cat/0-000.jpg", root / "train/cat/again.jpg"), "by content"),
        (lambda root: save(root / "val/cat/near.png", cv2.imread(str(root / "train/cat/0-000.jpg")) ^ 1), "by content"),
    ],
)
def test_what_misleads_no_training_is_not_warned_of(
    report: Callable[..., tuple[str, str]], tmp_path: Path, make: Callable[[Path], object], absent: str
) -> None:
    splits(tmp_path)
    make(tmp_path)
    assert absent not in report(tmp_path)[1]


@pytest.mark.parametrize("val", ["train", "val.csv"])
def test_an_image_that_is_in_both_splits_itself_is_warned_of(
    report: Callable[..., tuple[str, str]], tmp_path: Path, val: str
) -> None:
    splits(tmp_path)
    rows = (f"{label}/{n}-{name},{label}\n" for n, label in enumerate(("cat", "dog")) for name in numbered(2))
    (tmp_path / "val.csv").write_text("".join(rows))
    said = report(tmp_path / "train", val=tmp_path / val)[1]
    assert "4 of the 4 validation images are training images too, by content" in said


def test_one_pixel_of_a_large_picture_tells_it_from_another(
    report: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    splits(tmp_path)
    large = np.full((900, 1200, 3), 7, np.uint8)
    save(tmp_path / "train/cat/large.png", large)
    large[501, 701] = 9
    save(tmp_path / "val/cat/large.png", large)
    assert "by content" not in report(tmp_path)[1]


def test_the_report_names_classes_imbalance_sizes_colours_and_what_is_left_out(
    report: Callable[..., tuple[str, str]], flat: Path
) -> None:
    cv2.imwrite(str(flat / "cat/000.jpg"), DEEP.astype(np.uint8)[:8, :9])
    save(flat / "ape/deep.png", DEEP * np.uint16(256))
    (flat / "ape/torn.jpg").write_bytes(b"torn")
    (flat / "ape/notes.txt").touch()
    printed, said = report(flat)
    rows = [re.findall(r"[\w.,]+", line) for line in printed.splitlines()]
    assert [row for row in rows if row[:1] in (["ape"], ["bee"], ["cat"])] == [
        ["ape", "5", "1"], ["bee", "1", "1"], ["cat", "8", "2"],
    ]  # fmt: skip
    assert ["all", "3", "14", "4"] in rows
    assert "imbalance 8: 8 training images of 'cat', 1 of 'bee'; --class-weights balanced" in printed
    assert "9 × 8 (flat/cat/000.jpg) to 96 × 96 (flat/ape/deep.png); 16 in colour, 2 gray" in printed
    assert re.search(r"1 of 16 bits, values [\d,]+ to 65,280; 1 unreadable", printed)
    assert "left out: 1 .txt" in said
    assert "torn.jpg: not an image" in said
    weighted = report(flat, class_weights="balanced")[0]
    assert "4.67" in next(line for line in weighted.splitlines() if "bee" in line)  # 14 / (3 * 1)
    assert "--class-weights" not in weighted


def test_of_many_classes_the_largest_and_the_smallest_are_shown(
    report: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    for number in range(100):
        add(tmp_path / f"class {number:02d}", *numbered(2 + number // 10))
    printed = report(tmp_path)[0]
    assert len(printed.splitlines()) < 32
    assert printed.index("class 90") < printed.index("80 more") < printed.index("class 09")
    assert "2 to 8" in printed


def test_what_would_stop_the_training_stops_the_report(report: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    add(tmp_path / "only", *numbered(3))
    with pytest.raises(DataError, match="found one: 'only'"):
        report(tmp_path)
