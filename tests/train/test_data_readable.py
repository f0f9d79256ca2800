"""The check of a data set: unreadable images are left out, and what was readable is remembered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.data.image_folders import add, by_label, numbered

from hybrid_edge.runtime.errors import DataError
from hybrid_edge.train import data
from hybrid_edge.train.data import scan

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were decoded, in any order."""
    seen: list[Path] = []
    real = data.read_image

    def spy(path: Path) -> object:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(data, "read_image", spy)
    return seen


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
    monkeypatch.setattr(data, "CHUNK", 4)
    spy = data.read_image

    def interrupt(path: Path) -> object:
        if len(reads) >= 8:
            raise KeyboardInterrupt
        return spy(path)

    monkeypatch.setattr(data, "read_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scan(flat)
    assert len(reads) == 8
    reads.clear()
    monkeypatch.setattr(data, "read_image", spy)
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
    monkeypatch.setattr(data, "SECONDS_BEFORE_BAR", -1.0)
    add(flat / "cat", "new.jpg")
    scan(flat)
    out, err = capfd.readouterr()
    assert "checking images" in err
    assert out == ""
