"""Data sets as class folders: what is found, how it is split, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.data.image_folders import add, by_label, numbered, relative

from hybrid_edge.runtime.errors import DataError, UsageError
from hybrid_edge.train.data import DataSet, scan

pytestmark = pytest.mark.usefixtures("own_cache")


def test_train_and_val_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    add(tmp_path / "train/b", "2.jpg", "1.png")
    add(tmp_path / "train/a", "1.JPEG")
    add(tmp_path / "val/a", "9.jpg")
    add(tmp_path / "val/b", "9.jpg")
    add(tmp_path / "test/z", "9.jpg")
    found = scan(tmp_path)
    assert found.labels == ("a", "b")
    assert relative(found.train, tmp_path) == ["train/a/1.JPEG", "train/b/1.png", "train/b/2.jpg"]
    assert relative(found.validation, tmp_path) == ["val/a/9.jpg", "val/b/9.jpg"]
    assert [image.label for image in found.train] == ["a", "b", "b"]
    assert found.warnings == ()
    assert found.skipped == ()


def test_sub_folders_belong_to_their_class_and_other_files_are_ignored(tmp_path: Path) -> None:
    add(tmp_path / "a", "1.jpg", "deep/er/2.jpg", ".hidden.jpg", ".git/3.jpg")
    add(tmp_path / "b", "1.jpg", "2.jpg")
    (tmp_path / "a" / "a_boxes.txt").write_text("0 0 1 1")
    (tmp_path / ".cache").mkdir()
    found = scan(tmp_path)
    assert sorted(relative(found.train + found.validation, tmp_path)) == [
        "a/1.jpg",
        "a/deep/er/2.jpg",
        "b/1.jpg",
        "b/2.jpg",
    ]


def test_a_folder_linked_into_itself_is_walked_once(tmp_path: Path) -> None:
    add(tmp_path / "a", *numbered(2))
    add(tmp_path / "b", *numbered(2))
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert len(scan(tmp_path).train) == 2


def test_images_that_are_links_are_found_under_their_own_name(tmp_path: Path) -> None:
    add(tmp_path / "store", *numbered(4))
    for number, name in enumerate(numbered(4)):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(tmp_path / "store" / name)
    found = scan(tmp_path / "data")
    assert {image.path.parent.parent for image in found.train} == {tmp_path / "data"}


def test_flat_class_folders_are_split_in_proportion_with_every_class_on_both_sides(flat: Path) -> None:
    found = scan(flat, val_fraction=0.2)
    assert by_label(found.validation) == {"cat": 2, "ape": 1, "bee": 1}
    assert by_label(found.train) == {"cat": 8, "ape": 4, "bee": 1}
    assert not set(found.train) & set(found.validation)


def test_train_without_val_is_split(flat: Path, tmp_path: Path) -> None:
    nested = tmp_path / "nested"
    nested.mkdir()
    flat.rename(nested / "train")
    found = scan(nested)
    assert found.labels == ("ape", "bee", "cat")
    assert len(found.validation) == 4


def test_classes_that_happen_to_be_called_train_and_val_are_classes(tmp_path: Path) -> None:
    add(tmp_path / "train", *numbered(3))
    add(tmp_path / "bus", *numbered(3))
    assert scan(tmp_path).labels == ("bus", "train")


def test_the_split_is_the_same_whatever_order_the_file_system_lists(
    flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = scan(flat, seed=3)
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(real(self), reverse=True)))
    assert scan(flat, seed=3) == before


def test_the_split_does_not_depend_on_where_the_data_lies_or_on_other_classes(flat: Path) -> None:
    before = {image.path.name for image in scan(flat).validation if image.label == "cat"}
    add(flat / "ant", *numbered(7))
    moved = flat.rename(flat.with_name("moved"))
    assert {image.path.name for image in scan(moved).validation if image.label == "cat"} == before


def test_another_seed_gives_another_split(flat: Path) -> None:
    assert len({scan(flat, seed=seed).validation for seed in range(6)}) > 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_validation_fraction_out_of_range_is_wrong_usage(flat: Path, fraction: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        scan(flat, val_fraction=fraction)


def test_a_single_image_is_trained_on_and_the_class_is_named_in_a_warning(flat: Path) -> None:
    add(flat / "owl", "1.jpg")
    found = scan(flat)
    assert by_label(found.train)["owl"] == 1
    assert by_label(found.validation)["owl"] == 0
    assert len(found.warnings) == 1
    assert "'owl'" in found.warnings[0]


def test_a_class_of_train_that_val_lacks_is_a_warning(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "val/a"):
        add(tmp_path / place, "1.jpg")
    found = scan(tmp_path)
    assert found.labels == ("a", "b")
    assert "'b'" in found.warnings[0]


def test_one_image_in_each_class_leaves_nothing_to_validate_on(tmp_path: Path) -> None:
    add(tmp_path / "a", "1.jpg")
    add(tmp_path / "b", "1.jpg")
    with pytest.raises(DataError, match="nothing to validate on"):
        scan(tmp_path)


def test_a_path_that_is_missing_or_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        scan(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="found a file"):
        scan(tmp_path / "file")


def test_no_class_folders_is_refused_and_loose_images_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one folder for each class, found none"):
        scan(tmp_path)
    add(tmp_path, *numbered(3))
    with pytest.raises(DataError, match="found 3 images beside each other"):
        scan(tmp_path)


def test_exactly_one_class_is_refused_by_name(tmp_path: Path) -> None:
    add(tmp_path / "only", *numbered(3))
    with pytest.raises(DataError, match="found one: 'only'"):
        scan(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_is_refused_by_name(tmp_path: Path, split: str) -> None:
    for place in ("train/a", "train/b", "val/a", "val/b"):
        add(tmp_path / place, "1.jpg")
    for image in (tmp_path / split / "b").iterdir():
        image.rename(image.with_suffix(".txt"))
    with pytest.raises(DataError, match=f"class 'b' is empty: .*/{split}/b"):
        scan(tmp_path)


def test_a_class_of_val_that_train_lacks_is_refused_by_name(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "val/a", "val/x", "val/y"):
        add(tmp_path / place, "1.jpg")
    with pytest.raises(DataError, match="train/ lacks: 'x', 'y'"):
        scan(tmp_path)


def test_val_without_train_is_refused(tmp_path: Path) -> None:
    add(tmp_path / "val/a", "1.jpg")
    with pytest.raises(DataError, match="no train/ beside it"):
        scan(tmp_path)


def test_tiny_imagenet_as_published_is_recognised_and_the_remedy_named(tmp_path: Path) -> None:
    add(tmp_path / "train/n01/images", "n01_0.JPEG")
    add(tmp_path / "train/n02/images", "n02_0.JPEG")
    add(tmp_path / "val/images", "val_0.JPEG")
    with pytest.raises(DataError, match="hybrid-prepare tiny-imagenet"):
        scan(tmp_path)


def test_a_folder_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    add(tmp_path / "a", "1.jpg")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH102
    with pytest.raises(DataError, match="can't be a label"):
        scan(tmp_path)


def test_a_folder_that_may_not_be_listed_is_named(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.iterdir

    def denied(self: Path) -> object:
        if self.name == "cat":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(DataError, match="cat: can't be listed: Permission denied"):
        scan(flat)


def test_a_class_whose_files_may_not_be_looked_at_is_refused(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.is_file

    def denied(self: Path) -> bool:
        if self.parent.name == "cat":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(DataError, match=r"cat/.*: can't be looked at: Permission denied"):
        scan(flat)


def test_a_data_set_cannot_be_changed() -> None:
    found = DataSet(labels=("a", "b"), train=(), validation=())
    with pytest.raises(AttributeError):
        found.labels = ("c",)  # type: ignore[misc]


def test_only_paths_and_labels_are_kept(flat: Path) -> None:
    found = scan(flat)
    assert all(type(value) in (str, type(flat)) for image in found.train for value in (image.path, image.label))
    assert not any(isinstance(value, np.ndarray) for value in vars(found).values())
