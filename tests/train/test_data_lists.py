"""Lists of labelled images as files, and the sample of them that a calibration takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.data.image_folders import by_label

from hybrid_edge.runtime.errors import DataError
from hybrid_edge.train.data import LabelledImage, calibration_sample, read_list, write_list


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
