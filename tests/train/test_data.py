"""Data sets as class folders: what is found, how it is split, what is refused."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data as photographs

from hybrid_edge.runtime.errors import DataError, UsageError
from hybrid_edge.train import readable
from hybrid_edge.train.data import DataSet, LabelledImage, calibration_sample, read_list, scan, write_list

PHOTO = cv2.cvtColor(photographs.astronaut()[:96, :96], cv2.COLOR_RGB2BGR)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(cache))
    return cache


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were decoded, in any order."""
    seen: list[Path] = []
    real = readable.read_image

    def spy(path: Path) -> object:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(readable, "read_image", spy)
    return seen


def add(folder: Path, *names: str) -> None:
    """Real images, each of its own size so that no two files are equal."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix.lower(), PHOTO[: 32 + number])[1].tobytes())


def numbered(count: int, suffix: str = ".jpg") -> list[str]:
    return [f"{i:03d}{suffix}" for i in range(count)]


def relative(images: tuple[LabelledImage, ...], root: Path) -> list[str]:
    return [image.path.relative_to(root).as_posix() for image in images]


def by_label(images: tuple[LabelledImage, ...]) -> Counter[str]:
    return Counter(image.label for image in images)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    root = tmp_path / "flat"
    add(root / "cat", *numbered(10))
    add(root / "ape", *numbered(5))
    add(root / "bee", *numbered(2))
    return root


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


def test_unreadable_images_are_named_with_the_reason_and_left_out(flat: Path) -> None:
    good = (flat / "cat/000.jpg").read_bytes()
    (flat / "cat/text.jpg").write_text("not an image")
    (flat / "cat/torn.jpg").write_bytes(good[: len(good) // 2])
    (flat / "cat/void.png").touch()
    (flat / "cat/gone.png").symlink_to(flat / "nowhere")
    found = scan(flat)
    reasons = {skipped.path.name: skipped.reason for skipped in found.skipped}
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
    for place in ("train/a", "train/b", "val/a", "val/b"):
        add(tmp_path / place, "1.jpg")
    (tmp_path / split / "b/1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=f"class 'b': none of its 1 images in .*{split} .*the file is empty"):
        scan(tmp_path)


def test_without_the_check_no_image_is_opened(flat: Path, reads: list[Path]) -> None:
    (flat / "cat/bad.jpg").write_bytes(b"x")
    found = scan(flat, check=False)
    assert reads == []
    assert found.skipped == ()
    assert len(found.train) + len(found.validation) == 18


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
    scan(flat)
    assert {path.name for path in reads} == {"bad.jpg", "001.jpg", "new.jpg"}


def test_an_image_that_became_unreadable_is_found_although_it_was_good_before(flat: Path) -> None:
    scan(flat)
    (flat / "cat/003.jpg").write_bytes(b"gone bad")
    assert [skipped.path.name for skipped in scan(flat).skipped] == ["003.jpg"]


def test_an_interrupted_check_keeps_what_it_has_seen(
    flat: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readable, "CHUNK", 4)
    spy = readable.read_image

    def interrupt(path: Path) -> object:
        if len(reads) >= 8:
            raise KeyboardInterrupt
        return spy(path)

    monkeypatch.setattr(readable, "read_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scan(flat)
    assert len(reads) == 8
    reads.clear()
    monkeypatch.setattr(readable, "read_image", spy)
    scan(flat)
    assert len(reads) == 17 - 8


@pytest.mark.parametrize("content", [b"", b"x" * 17, b"y" * 160])
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


def test_a_long_check_shows_its_progress_on_stderr(
    flat: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    scan(flat)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(readable, "QUIET_SECONDS", -1.0)
    add(flat / "cat", "new.jpg")
    scan(flat)
    out, err = capfd.readouterr()
    assert "checking images" in err
    assert out == ""


def test_a_list_comes_back_as_it_was_written(tmp_path: Path) -> None:
    awkward = ["plain.jpg", "tab\there.jpg", "line\nbreak.jpg", "back\\slash\\n.jpg", "überstraße 猫.jpg", "cr\r.jpg"]
    images = [LabelledImage(tmp_path / name, label) for name in awkward for label in ("a", "to\tm\\t", "ü")]
    images.append(LabelledImage(Path(os.fsdecode(b"/data/\xff\xfe.jpg")), "bytes"))
    write_list(tmp_path / "train.txt", images)
    assert read_list(tmp_path / "train.txt") == images
    assert len((tmp_path / "train.txt").read_bytes().splitlines()) == len(images)


def test_a_list_holds_absolute_paths_and_reads_as_plain_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_list(Path("l.txt"), [LabelledImage(Path("a/b.jpg"), "cat")])
    assert Path("l.txt").read_text() == f"cat\t{tmp_path}/a/b.jpg\n"
    assert read_list(Path("l.txt")) == [LabelledImage(tmp_path / "a/b.jpg", "cat")]


def test_an_empty_list_comes_back_empty(tmp_path: Path) -> None:
    write_list(tmp_path / "l.txt", [])
    assert read_list(tmp_path / "l.txt") == []


def test_a_failed_write_leaves_the_old_list(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    write_list(path, [LabelledImage(Path("/a.jpg"), "a")])
    before = path.read_bytes()

    def failing() -> object:
        yield LabelledImage(Path("/b.jpg"), "b")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_list(path, failing())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("line", ["no tab here\n", "\t/a.jpg\n", "a\trelative.jpg\n", "a\t/x.jpg\t/y.jpg\n", "a\t/cut"])
def test_a_malformed_list_is_refused_with_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "l.txt"
    path.write_text("a\t/ok.jpg\n" + line)
    with pytest.raises(DataError, match=r"line 2: expected label, tab, absolute path|last line is cut off"):
        read_list(path)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_list(tmp_path / "l.txt")


def uneven() -> list[LabelledImage]:
    sizes = {"a": 100, "b": 50, "c": 1}
    return [LabelledImage(Path(f"/{label}/{i}.jpg"), label) for label, size in sizes.items() for i in range(size)]


def test_a_calibration_sample_is_in_proportion_and_holds_every_class() -> None:
    sample = calibration_sample(uneven(), n=31)
    assert by_label(sample) == {"a": 20, "b": 10, "c": 1}
    assert len(set(sample)) == 31


def test_the_beginning_of_a_calibration_sample_is_stratified_too() -> None:
    sample = calibration_sample(uneven(), n=100)
    assert set(by_label(sample[:3])) == {"a", "b", "c"}
    assert sample[:31] == calibration_sample(uneven(), n=31)


def test_a_calibration_sample_is_seeded_and_at_most_everything() -> None:
    images = uneven()
    assert calibration_sample(images, n=30) == calibration_sample(images[::1], n=30)
    assert calibration_sample(images, n=30, seed=1) != calibration_sample(images, n=30)
    assert sorted(calibration_sample(images, n=1000), key=str) == sorted(images, key=str)
    assert calibration_sample([], n=10) == ()


def test_a_data_set_cannot_be_changed() -> None:
    found = DataSet(labels=("a", "b"), train=(), validation=())
    with pytest.raises(AttributeError):
        found.labels = ("c",)  # type: ignore[misc]


def test_only_paths_and_labels_are_kept(flat: Path) -> None:
    found = scan(flat)
    assert all(type(value) in (str, type(flat)) for image in found.train for value in (image.path, image.label))
    assert not any(isinstance(value, np.ndarray) for value in vars(found).values())
