import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.image_folders import add, relative

from hybrid_edge.runtime.errors import DataError
from hybrid_edge.train.data import scan
from hybrid_edge.train.found_images import find_images
from hybrid_edge.train.splits import split_role

pytestmark = pytest.mark.usefixtures("own_cache")


def classes(*roots: str) -> Callable[[Path], None]:
    """Make two classes, ``a`` and ``b``, in each folder; a name that ends with a star gets the images themselves."""

    def make(data: Path) -> None:
        for root in roots:
            if root.endswith("*"):
                add(data / root[:-1], "1.jpg", "2.jpg")
            else:
                add(data / root, "a/1.jpg", "a/2.jpg", "b/1.jpg")

    return make


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(
            (name, "train")
            for name in ("train", "Train", "TRAINING", "training_set", "Train Images", "train-data", "train_dataset")
        ),
        *((name, "validation") for name in ("val", "Valid", "VALIDATION", "dev", "eval", "val_set", "validation set")),
        *((name, "test") for name in ("test", "Testing", "test_set", "TestImages")),
        *((name, None) for name in ("trainer", "invalid", "contest", "training day", "seg_train", "train2017", "set")),
    ],
)
def test_a_split_has_a_usual_name_in_any_case(name: str, role: str | None) -> None:
    assert split_role(name) == role


@pytest.mark.parametrize(
    ("make", "train", "validation"),
    [
        (classes("train", "valid", "test"), "train", "valid"),  # Roboflow's folders
        (classes("Training", "Validation"), "Training", "Validation"),
        (classes("training_set", "test_set"), "training_set", "training_set"),
        (classes("images/Train", "images/Val"), "images/Train", "images/Val"),
        (classes("d/d"), "d/d", "d/d"),  # Kaggle's doubled folder
        (classes("d/d/train/train", "d/d/val"), "d/d/train/train", "d/d/val"),
        (
            classes("ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val"),
            *(f"ILSVRC/Data/CLS-LOC/{s}" for s in ("train", "val")),
        ),
        (classes("train", "test1*", "val", "raw*"), "train", "val"),
        (classes("train", "test*"), "train", "train"),  # Kaggle's images to be answered
        (classes("", "train*"), "", ""),  # a class of vehicles
        (classes("", "valid*", "invalid*"), "", ""),  # a class of products
    ],
)
def test_splits_are_found_by_their_names(
    tmp_path: Path, make: Callable[[Path], None], train: str, validation: str
) -> None:
    make(tmp_path)
    (tmp_path / "README.roboflow.txt").touch()
    if train.casefold().startswith(("train", "images")):  # elsewhere it would be a class without images
        (tmp_path / "annotations").mkdir()
    found = scan(tmp_path)
    assert {image.path.parent.parent for image in found.train} == {tmp_path / train}
    assert {image.path.parent.parent for image in found.validation} == {tmp_path / validation}
    assert not {"train2017", "test1", "raw", "annotations"} & set(found.labels)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (classes("Train", "training"), "data/Train/, .*data/training/"),
        (classes("train", "val", "valid"), "data/val/, .*data/valid/"),
        (classes("train", "cat*"), "train/ .* beside it are images in .*data/cat/"),
        (classes("", "train"), "train/ .* beside it are images in .*data/a/, .*data/b/"),
        (classes("valid"), "data/valid/: there is no train/"),
        (classes("", "test"), "data/test/: there is no train/"),
        (classes("train*"), "data/train/: expected class folders .*, found images directly in it"),
        (classes("train*", "test*"), "data/test/, .*data/train/: .* found images directly"),
        (classes("train", "val*"), "data/val/: .* found images directly"),
        (classes("", "test*"), "data/test/: .* found images directly"),
        (classes("seg_train/seg_train", "seg_test/seg_test"), "data/seg_test/, .*data/seg_train/: are they splits"),
        (
            classes("seg_train/seg_train", "seg_test/seg_test", "seg_pred/seg_pred*"),
            "data/seg_test/, .*data/seg_train/: a",
        ),
        (classes("train", "train/val"), "data/train/val/: expected classes in .*, found the folder of a split beside"),
        (classes("tr", "te"), "data/te/, .*data/tr/: are they splits"),
        (classes("train2017", "val2017"), "data/train2017/, .*data/val2017/: are they splits"),
        (
            classes("a/train*", "a/test*", "b/train*", "b/test*"),
            "data/a/test/, .*data/a/train/: expected classes inside the splits",
        ),
        (classes("fold1", "fold2", "Fold_10"), r"data/fold1/, .*: .* each with a, b in it; .* --val .*data/fold2$"),
        (
            classes("train/batch 1", "train/batch 2", "val"),
            r"; merge them, or name two: hybrid-train '.*/batch 1' --val ",
        ),
        (classes("Training Set", "more"), "name the folder to train on: hybrid-train '.*data/Training Set'$"),
    ],
)
def test_what_could_mean_two_things_is_refused_with_the_folders(
    tmp_path: Path, make: Callable[[Path], None], named: str
) -> None:
    make(tmp_path / "data")
    with pytest.raises(DataError, match=named):
        scan(tmp_path / "data")


def test_a_table_beside_the_images_of_a_split_is_named_in_the_message(tmp_path: Path) -> None:
    classes("train*", "valid*", "test*")(tmp_path)
    for split in ("train", "valid", "test"):
        (tmp_path / split / "_classes.csv").touch()
    with pytest.raises(DataError, match=r"--labels .*/train/_classes\.csv --val .*/valid/_classes\.csv$"):
        scan(tmp_path)


def test_what_is_left_out_and_how_the_folders_were_understood_is_told(tmp_path: Path) -> None:
    classes("data/train", "data/val", "data/test", "data/raw")(tmp_path)
    add(tmp_path / "data/train", "loose.jpg")
    (tmp_path / "data/train/a/1.xml").touch()
    found = scan(tmp_path)
    data = tmp_path / "data"
    assert found.notes == (
        f"{tmp_path}: the data set is in {data}",
        f"{data}/raw is left out: it is no split by its name",
        f"{data}/test is left out of training: hybrid-export --images {data}/test proves an export on it",
    )
    assert found.left_out == {".xml": 1, "images beside the class folders": 1}


@pytest.mark.parametrize(
    ("roots", "told"),
    [
        (("cam1", "cam2"), True),
        (("fold1", "b"), True),
        (("", "c*"), False),
        (("ok/2024", "bad/2024"), False),
    ],
)
def test_classes_that_have_folders_of_the_same_names_are_told(
    tmp_path: Path, roots: tuple[str, ...], told: bool
) -> None:
    classes(*roots)(tmp_path)
    notes = find_images(tmp_path).notes
    assert [("if a, b, which are in each, are the classes" in note) for note in notes] == [True] * told


def test_classes_whose_images_lie_in_parts_are_classes(tmp_path: Path) -> None:
    add(tmp_path, *(f"{label}/part{part}/1.jpg" for label in ("cat", "dog") for part in (1, 2)))
    found = find_images(tmp_path)
    assert (sorted(found.train), found.notes) == (["cat", "dog"], ())


def test_splits_may_be_given_apart(tmp_path: Path) -> None:
    classes("here", "there/there", "both/train", "both/val")(tmp_path)
    for val, root in (("there", "there/there"), ("both", "both/val")):
        found = scan(tmp_path / "here", val=tmp_path / val)
        assert relative(found.validation, tmp_path / root) == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
        assert len(found.train) == 3
    with pytest.raises(
        DataError, match=r"both/val too; name the training images alone: hybrid-train .*both/train --val"
    ):
        scan(tmp_path / "both", val=tmp_path / "there")
    with pytest.raises(DataError, match=r"--val .*nowhere: expected class folders or a CSV .* found nothing there"):
        scan(tmp_path / "here", val=tmp_path / "nowhere")


def test_names_are_compared_in_nfc(tmp_path: Path) -> None:
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    for name in (f"train/{composed}", f"val/{decomposed}", "train/tea", "val/tea"):
        add(tmp_path / name, "1.jpg")
    assert scan(tmp_path).labels == (composed, "tea")
    (tmp_path / "train" / composed).rename(tmp_path / "train" / decomposed)
    found = scan(tmp_path)
    assert found.labels == (composed, "tea")
    assert found.train[0].path == tmp_path / "train" / decomposed / "1.jpg"
    add(tmp_path / "train" / composed, "2.jpg")
    with pytest.raises(DataError, match=r"two folders are called 'café'.*'cafe\\u0301' and 'caf\\xe9'"):
        scan(tmp_path)


def test_linked_class_folders_are_followed_and_never_up(tmp_path: Path) -> None:
    classes("store")(tmp_path)
    (tmp_path / "data").mkdir()
    for label in "ab":
        (tmp_path / "data" / label).symlink_to(tmp_path / "store" / label)
    (tmp_path / "store/a/up").symlink_to(tmp_path / "data")
    found = scan(tmp_path / "data")
    assert sorted(relative(found.train + found.validation, tmp_path / "data")) == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
