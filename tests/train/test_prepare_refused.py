"""Every fault of a published data set and of the destination: what is refused, before anything is written."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.tiny_imagenet import archive, contents, expected

from hybrid_edge.runtime.errors import DataError, UsageError
from hybrid_edge.train import tiny_imagenet
from hybrid_edge.train.tiny_imagenet import prepare_tiny_imagenet


def test_an_archive_cannot_be_linked_to(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --link out"):
        prepare_tiny_imagenet(archive(source, ".zip"), tmp_path / "out", link=True)


def test_a_destination_inside_the_source_is_wrong_usage(source: Path) -> None:
    for dst in (source, source / "out"):
        with pytest.raises(UsageError, match="only read"):
            prepare_tiny_imagenet(source, dst)


def test_a_destination_that_holds_other_things_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "train/goldfish").mkdir(parents=True)
    (out / "train/goldfish/mine.jpg").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"found train/goldfish/mine\.jpg in it: choose another folder"):
        prepare_tiny_imagenet(source, out)
    assert contents(out) == {"train/goldfish/mine.jpg": b"precious"}


def test_a_destination_that_is_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="found a file"):
        prepare_tiny_imagenet(source, tmp_path / "out")


def test_a_full_disk_is_one_clear_error(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="can't be written: No space left on device"):
        prepare_tiny_imagenet(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_missing_list_is_named(source: Path, tmp_path: Path, name: str, packed: bool) -> None:
    (source / name).unlink()
    with pytest.raises(DataError, match=f"expected {name} in it, found none"):
        prepare_tiny_imagenet(archive(source, ".tar") if packed else source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def drop_val_image(root: Path) -> None:
    (root / "val/images/val_3.JPEG").unlink()


def annotate(line: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        with (root / "val/val_annotations.txt").open("a") as file:
            file.write(line)

    return edit


def empty_class(root: Path) -> None:
    for image in (root / "train/n02012849/images").iterdir():
        image.unlink()


def nameless(root: Path) -> None:
    (root / "words.txt").write_text("n01443537\tgoldfish\n")


def not_text(root: Path) -> None:
    (root / "words.txt").write_bytes(b"n01443537\t\xff\xfe\n")


def hostile_wnid(root: Path) -> None:
    (root / "wnids.txt").write_text("n01443537\n../../etc\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_val_image, "'val_3.JPEG' is not in val/images"),
        (annotate("val_0.JPEG\tn77777777\t0\t0\t1\t1\n"), "line 11: .*n77777777"),
        (annotate("just words\n"), "line 11: expected file, tab, a wnid"),
        (annotate("../images/val_0.JPEG\tn01443537\n"), "line 11: .*is not in val/images"),
        (empty_class, "no images in train/WNID/images/ of n02012849"),
        (nameless, "words.txt has no name for n02012849"),
        (not_text, "words.txt is not UTF-8"),
        (hostile_wnid, "expected one wnid a line.*'../../etc'"),
    ],
)
def test_a_damaged_layout_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(source)
    with pytest.raises(DataError, match=message):
        prepare_tiny_imagenet(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_missing_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        prepare_tiny_imagenet(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "text.zip").write_text("not an archive")
    with pytest.raises(DataError, match="a file that is none of them"):
        prepare_tiny_imagenet(tmp_path / "text.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_archive_is_refused_and_names_the_file(
    source: Path, tmp_path: Path, kind: str, share: float
) -> None:
    path = archive(source, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="tiny"):
        prepare_tiny_imagenet(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_with_flipped_bits_is_refused(source: Path, tmp_path: Path) -> None:
    path = archive(source, ".zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"images/n01443537_0.JPEG") + 300] ^= 0xFF  # inside a stored image: its checksum fails
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        prepare_tiny_imagenet(path, tmp_path / "out")


def test_links_and_names_that_climb_out_of_an_archive_write_nothing_outside(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "hostile.tar"
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    with tarfile.open(path, "w") as file:
        file.add(source, source.name)
        for name in ("../../escaped.JPEG", "/escaped.JPEG", f"{source.name}/train/n01443537/images/../../x.JPEG"):
            member = tarfile.TarInfo(name)
            member.size = 4
            file.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo(f"{source.name}/train/n01443537/images/link.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        file.addfile(link)
    before = sorted(p for p in tmp_path.rglob("*"))
    prepare_tiny_imagenet(path, tmp_path / "out")
    assert contents(tmp_path / "out") == expected(source)
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "out")) == before


def test_a_member_too_large_to_be_an_image_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_imagenet, "MAX_MEMBER_BYTES", 2**20)
    (source / "train/n01443537/images/n01443537_0.JPEG").write_bytes(bytes(2**20 + 1))
    with pytest.raises(DataError, match="at most 1 MiB, found more"):
        prepare_tiny_imagenet(archive(source, ".zip"), tmp_path / "out")
