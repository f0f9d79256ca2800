from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.models.bundles import SPEC

from hybrid_edge.calib import choose_images, read_batches
from hybrid_edge.runtime.errors import CalibrationError
from hybrid_edge.runtime.preprocess import Preprocessor, read_image
from hybrid_edge.train.data import LabelledImage


def labels(paths: tuple[Path, ...]) -> Counter[str]:
    return Counter(path.parent.name for path in paths)


def test_a_choice_of_any_size_is_stratified(photos: list[LabelledImage]) -> None:
    assert labels(choose_images(photos, count=3).paths) == {"a": 1, "b": 1, "c": 1}
    assert labels(choose_images(photos, count=10).paths) == {"a": 6, "b": 3, "c": 1}
    assert labels(choose_images(photos).paths) == {"a": 12, "b": 6, "c": 2}


def test_the_choice_does_not_depend_on_the_order_of_the_candidates(photos: list[LabelledImage]) -> None:
    chosen = choose_images(photos, count=8)
    assert choose_images(photos, count=8) == chosen
    assert labels(choose_images(photos[::-1], count=8).paths) == labels(chosen.paths)


def test_validation_images_are_left_out_by_path_by_link_and_by_content(
    photos: list[LabelledImage], tmp_path: Path
) -> None:
    copy, link = tmp_path / "copy.png", tmp_path / "link.png"
    shutil.copy(photos[0].path, copy)
    link.symlink_to(photos[1].path)
    held_out = [copy, link, photos[2].path, tmp_path / "gone.png"]
    chosen = choose_images(photos, validation=held_out)
    assert chosen.excluded == 3
    assert set(chosen.paths) == {photo.path for photo in photos[3:]}


def test_copies_of_an_image_count_once(photos: list[LabelledImage], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    shutil.copy(photos[5].path, copy)
    chosen = choose_images([*photos, LabelledImage(copy, "c")])
    assert (len(chosen.paths), chosen.duplicates) == (20, 1)
    assert len(set(chosen.sha256s)) == 20


def test_files_that_are_gone_or_no_files_are_named(photos: list[LabelledImage], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    odd = [
        LabelledImage(tmp_path / "gone.png", "a"),
        LabelledImage(tmp_path / "pipe.png", "a"),
        LabelledImage(tmp_path, "b"),
    ]
    chosen = choose_images([*odd, *photos])
    assert len(chosen.paths) == 20
    assert len(chosen.skipped) == 3
    assert any("gone.png: No such file" in line for line in chosen.skipped)
    assert any("pipe.png: not a regular file" in line for line in chosen.skipped)


def test_nothing_to_calibrate_on_is_refused(photos: list[LabelledImage]) -> None:
    with pytest.raises(CalibrationError, match="of 0 candidates"):
        choose_images([])
    with pytest.raises(CalibrationError, match="20 validate the model too"):
        choose_images(photos, validation=[photo.path for photo in photos])


def test_batches_hold_what_the_preprocessing_gives_and_name_what_can_not_be_read(photos: list[LabelledImage]) -> None:
    paths = [photo.path for photo in photos[:10]]
    paths[4].write_bytes(b"no image")
    skipped: list[str] = []
    batches = list(read_batches(paths, SPEC, batch=4, on_skip=skipped.append))
    assert [len(batch["image"]) for batch in batches] == [4, 4, 1]
    expected = Preprocessor(SPEC)([read_image(path) for path in paths if path != paths[4]])
    for name, values in expected.items():
        assert np.array_equal(np.concatenate([batch[name] for batch in batches]), values)
    (said,) = skipped
    assert str(paths[4]) in said
