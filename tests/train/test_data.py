import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.image_folders import add, by_label, numbered, relative

from hybrid_edge.runtime.errors import DataError, UsageError
from hybrid_edge.runtime.sources import media_files
from hybrid_edge.runtime.sources.media_files import visible_entries
from hybrid_edge.train import checked_images, class_folders
from hybrid_edge.train.data import LabelledImage, calibration_sample, read_list, scan, write_list

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
    assert (found.warnings, found.skipped) == ((), {})


def test_sub_folders_belong_to_their_class_and_other_files_are_ignored(tmp_path: Path) -> None:
    add(tmp_path / "a", "1.jpg", "deep/er/2.jpg", ".hidden.jpg", ".git/3.jpg")
    add(tmp_path / "b", "1.jpg", "2.jpg")
    (tmp_path / "a" / "a_boxes.txt").write_text("0 0 1 1")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")  # a folder linked into itself is walked once
    (tmp_path / ".cache").mkdir()
    found = scan(tmp_path)
    images = sorted(relative(found.train + found.validation, tmp_path))
    assert images == ["a/1.jpg", "a/deep/er/2.jpg", "b/1.jpg", "b/2.jpg"]


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


def test_the_split_depends_on_seed_and_names_of_each_class_alone(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scan(flat, seed=3)
    assert len({scan(flat, seed=seed).validation for seed in range(6)}) > 1
    with monkeypatch.context() as patch:
        patch.setattr(class_folders, "visible_entries", lambda *found: visible_entries(*found)[::-1])
        patch.setattr(media_files, "visible_entries", lambda *found: visible_entries(*found)[::-1])
        assert scan(flat, seed=3) == before
    add(flat / "ant", *numbered(7))
    moved = flat.rename(flat.with_name("moved"))
    cats = [
        {image.path.name for image in found.validation if image.label == "cat"}
        for found in (before, scan(moved, seed=3))
    ]
    assert cats[0] == cats[1]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_validation_fraction_out_of_range_is_wrong_usage(flat: Path, fraction: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        scan(flat, val_fraction=fraction)


def test_a_class_without_a_validation_image_is_trained_on_and_named_in_a_warning(flat: Path, tmp_path: Path) -> None:
    add(flat / "owl", "1.jpg")
    found = scan(flat)
    assert (by_label(found.train)["owl"], by_label(found.validation)["owl"]) == (1, 0)
    assert len(found.warnings) == 1
    assert "'owl'" in found.warnings[0]
    for place in ("train/a", "train/b", "val/a"):
        add(tmp_path / "split" / place, "1.jpg")
    found = scan(tmp_path / "split")
    assert found.labels == ("a", "b")
    assert "'b'" in found.warnings[0]


def folders(*places: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for place in places:
            add(root / place, "1.jpg")

    return make


def no_utf8(root: Path) -> None:
    add(root / "a", "1.jpg")
    os.mkdir(os.fsencode(root) + b"/\xff")  # noqa: PTH102


def empty(*places: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        folders("train/a", "train/b", "val/a", "val/b")(root)
        for place in places:
            (root / place / "1.jpg").unlink()
            (root / place / "1.txt").write_text("notes")

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (folders("a", "b"), "nothing to validate on"),
        (lambda root: root.rmdir(), "no such folder"),
        (lambda root: (root.rmdir(), root.touch()), "found a file"),
        (lambda _: None, "one folder for each class, found none"),
        (lambda root: add(root, *numbered(3)), "found 3 images beside each other"),
        (folders("only"), "found one: 'only'"),
        (folders("only", "wandb"), r"found one: 'only' \(left out: 1 wandb/\)"),
        (empty("train/b"), "class 'b' is empty: .*/train/b .*left out: 1 .txt"),
        (empty("val/b"), "class 'b' is empty: .*/val/b"),
        (folders("train/a", "train/b", "val/a", "val/x", "val/y"), "val/ has classes that train/ lacks: 'x', 'y';"),
        (folders("train/A", "train/b ", "val/a", "val/b"), r"lacks: 'a', 'b' \(but has 'A', 'b ': spell them alike\);"),
        (folders("val/a"), "no train/ beside it"),
        (folders("train/n01/images", "train/n02/images", "val/images"), "hybrid-prepare tiny-imagenet"),
        (no_utf8, "can't be a label"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_the_reason(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=message):
        scan(root)


@pytest.mark.parametrize("name", ["flat", "cat"])
def test_a_folder_that_may_not_be_listed_is_named(flat: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = os.scandir

    def denied(folder: Path) -> object:
        if folder.name == name:
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=f"{name}: the folder can't be read: Permission denied"):
        scan(flat)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    real = checked_images.read_image_file

    def spy(path: Path) -> object:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(checked_images, "read_image_file", spy)
    return seen


def test_unreadable_images_are_named_with_the_reason_and_left_out(flat: Path) -> None:
    good = (flat / "cat/000.jpg").read_bytes()
    (flat / "cat/text.jpg").write_text("not an image")
    (flat / "cat/torn.jpg").write_bytes(good[: len(good) // 2])
    (flat / "cat/void.png").touch()
    (flat / "cat/gone.png").symlink_to(flat / "nowhere")
    found = scan(flat)
    reasons = {path.name: reason for path, reason in found.skipped.items()}
    assert set(reasons) == {"text.jpg", "torn.jpg", "void.png", "gone.png"}
    assert reasons["void.png"] == "the file is empty"
    assert "No such file" in reasons["gone.png"]
    assert len(found.train) + len(found.validation) == 17


def test_unreadable_images_leave_before_the_split_so_validation_is_never_empty(tmp_path: Path) -> None:
    add(tmp_path / "a", *numbered(2))
    add(tmp_path / "b", *numbered(2))
    for i in range(20):
        (tmp_path / "a" / f"bad{i}.jpg").write_bytes(b"x")
    assert by_label(scan(tmp_path).validation) == {"a": 1, "b": 1}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_of_which_nothing_is_readable_is_refused_with_the_first_reason(tmp_path: Path, split: str) -> None:
    folders("train/a", "train/b", "val/a", "val/b")(tmp_path)
    (tmp_path / split / "b/1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=f"class 'b': none of its 1 images in .*{split} .*the file is empty"):
        scan(tmp_path)


def test_the_second_check_reads_only_what_is_new_changed_or_was_bad(flat: Path, reads: list[Path]) -> None:
    bad = flat / "cat/bad.jpg"
    bad.write_bytes(b"x")
    first = scan(flat)
    assert len(reads) == 18
    reads.clear()
    assert scan(flat) == first
    assert reads == [bad]
    reads.clear()
    os.utime(flat / "ape/001.jpg", (1, 1))
    add(flat / "bee", "new.jpg")
    (flat / "cat/003.jpg").write_bytes(b"gone bad")
    assert [path.name for path in scan(flat).skipped] == ["003.jpg", "bad.jpg"]
    assert {path.name for path in reads} == {"bad.jpg", "001.jpg", "003.jpg", "new.jpg"}


def test_an_interrupted_check_keeps_what_it_saw(flat: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_images, "CHUNK", 4)
    spy = checked_images.read_image_file

    def interrupt(path: Path) -> object:
        if len(reads) >= 8:
            raise KeyboardInterrupt
        return spy(path)

    monkeypatch.setattr(checked_images, "read_image_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scan(flat)
    assert len(reads) == 8
    reads.clear()
    monkeypatch.setattr(checked_images, "read_image_file", spy)
    scan(flat)
    assert len(reads) == 17 - 8


@pytest.mark.parametrize("content", [b"", b"x" * 17, b"\xff\n" * 160])
def test_a_damaged_cache_is_as_good_as_none(flat: Path, own_cache: Path, reads: list[Path], content: bytes) -> None:
    scan(flat)
    (store,) = (own_cache / "checked").iterdir()
    store.write_bytes(content)
    reads.clear()
    assert len(scan(flat).train) == 13
    assert len(reads) == 17


def test_a_cache_that_cannot_be_written_does_not_stop_anything(flat: Path, own_cache: Path) -> None:
    (own_cache / "checked").touch()
    assert len(scan(flat).train) == 13


def test_a_list_comes_back_as_it_was_written(tmp_path: Path) -> None:
    awkward = ["plain.jpg", "tab\there.jpg", "line\nbreak.jpg", "back\\slash\\n.jpg", "überstraße 猫.jpg", "cr\r.jpg"]
    images = [LabelledImage(tmp_path / name, label) for name in awkward for label in ("a", "to\tm\\t", "ü")]
    images.append(LabelledImage(Path(os.fsdecode(b"/data/\xff\xfe.jpg")), "bytes"))
    write_list(tmp_path / "train.txt", images)
    assert read_list(tmp_path / "train.txt") == images
    assert len((tmp_path / "train.txt").read_bytes().splitlines()) == len(images)
    write_list(tmp_path / "train.txt", [])
    assert read_list(tmp_path / "train.txt") == []


def test_a_list_holds_absolute_paths_and_reads_as_plain_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_list(Path("l.txt"), [LabelledImage(Path("a/b.jpg"), "cat")])
    assert Path("l.txt").read_text() == f"cat\t{tmp_path}/a/b.jpg\n"
    assert read_list(Path("l.txt")) == [LabelledImage(tmp_path / "a/b.jpg", "cat")]


@pytest.mark.parametrize(
    "line", ["no tab here\n", "\t/a.jpg\n", "a\trelative.jpg\n", "a\t/x.jpg\t/y.jpg\n", "a\t/cut", None]
)
def test_a_malformed_or_missing_list_is_refused_with_the_line(tmp_path: Path, line: str | None) -> None:
    path = tmp_path / "l.txt"
    if line is not None:
        path.write_text("a\t/ok.jpg\n" + line)
    with pytest.raises(
        DataError, match=r"line 2: expected label, tab, absolute path|last line is cut off|No such file"
    ):
        read_list(path)


UNEVEN = [
    LabelledImage(Path(f"/{label}/{i}.jpg"), label) for label, n in (("a", 100), ("b", 50), ("c", 1)) for i in range(n)
]


def test_a_calibration_sample_is_in_proportion_and_so_is_its_beginning() -> None:
    sample = calibration_sample(UNEVEN, n=31)
    assert by_label(sample) == {"a": 20, "b": 10, "c": 1}
    assert len(set(sample)) == 31
    assert set(by_label(sample[:3])) == {"a", "b", "c"}
    assert calibration_sample(UNEVEN, n=100)[:31] == sample


def test_a_calibration_sample_is_seeded_and_at_most_everything() -> None:
    assert calibration_sample(UNEVEN, n=30, seed=1) != calibration_sample(UNEVEN, n=30)
    assert sorted(calibration_sample(UNEVEN, n=1000), key=str) == sorted(UNEVEN, key=str)
    assert calibration_sample([], n=10) == ()
