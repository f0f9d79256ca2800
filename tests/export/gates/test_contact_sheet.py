from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.models.standin import write_crops

from hybrid_edge.export.gates.comparison import Flip
from hybrid_edge.export.gates.contact_sheet import MAX_FLIPS, write_flips
from hybrid_edge.runtime.canvas.sheet import PICTURE_SIDE
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.preprocess import read_image
from hybrid_edge.train.data import LabelledImage


@pytest.fixture(scope="module")
def flip(tmp_path_factory: pytest.TempPathFactory) -> Flip:
    path = next(write_crops(tmp_path_factory.mktemp("flips"), 1, seed=9).rglob("*.png"))
    return Flip(LabelledImage(path, "cat"), "cat", 0.61, "dog", 0.55)


def test_nothing_is_written_where_nothing_flipped_and_an_earlier_sheet_goes(tmp_path: Path, flip: Flip) -> None:
    path = tmp_path / "report" / "flips-int8-cpu.png"
    assert write_flips(path, [], "int8-cpu", 300) is None
    assert not path.parent.exists()
    assert write_flips(path, [flip], "int8-cpu", 300) == path
    assert write_flips(path, [], "int8-cpu", 300) is None
    assert list(path.parent.iterdir()) == []


def test_the_sheet_shows_the_image_itself_and_is_the_same_each_time(tmp_path: Path, flip: Flip) -> None:
    first, second = (write_flips(tmp_path / name, [flip], "int8-cpu", 300) for name in ("a.png", "b.png"))
    assert first is not None
    assert second is not None
    assert first.read_bytes() == second.read_bytes()
    sheet = read_image(first)
    thumbnail = cv2.resize(read_image(flip.image.path), (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_AREA)
    assert cv2.matchTemplate(sheet, thumbnail, cv2.TM_CCOEFF_NORMED).max() > 0.99


def test_at_most_48_are_shown(tmp_path: Path, flip: Flip) -> None:
    many, most = (
        write_flips(tmp_path / f"{count}.png", [flip] * count, "fp16-cuda", 1000) for count in (100, MAX_FLIPS)
    )
    assert many is not None
    assert most is not None
    assert read_image(many).shape[0] == read_image(most).shape[0] > MAX_FLIPS / 6 * PICTURE_SIDE


@pytest.mark.filterwarnings("error")
def test_strange_labels_and_vanished_files_are_drawn(tmp_path: Path, flip: Flip) -> None:
    plain = write_flips(tmp_path / "plain.png", [flip], "int8-cpu", 300)
    strange = replace(
        flip, keras_label="$x_$^{", variant_label="猫" * 40, image=LabelledImage(tmp_path / "gone.png", "")
    )
    path = write_flips(tmp_path / "strange.png", [strange], "int8-cpu", 300)
    assert path is not None
    assert plain is not None
    assert not np.array_equal(read_image(path), read_image(plain))


def test_an_answer_is_green_where_it_is_right_and_red_where_it_is_wrong(tmp_path: Path, flip: Flip) -> None:
    both = []
    for label in ("cat", "bird"):
        path = write_flips(tmp_path / f"{label}.png", [replace(flip, keras_label=label)], "int8-cpu", 300)
        assert path is not None
        # below the picture: the letters alone
        _, green, red = np.moveaxis(read_image(path)[-90:].astype(int), -1, 0)
        both.append(((green - red > 60).sum(), (red - green > 60).sum()))
    (right_green, right_red), (wrong_green, wrong_red) = both
    assert right_green > 0
    assert wrong_green == 0
    assert wrong_red > right_red > 0
