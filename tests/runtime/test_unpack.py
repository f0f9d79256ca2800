import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.models.bundles import change_manifest, files_of, make_variant

from hybrid_edge.runtime import bundle as bundle_module
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError
from hybrid_edge.runtime.manifest import MANIFEST

Change = Callable[[tarfile.TarInfo], tarfile.TarInfo]
Repacked = Callable[[Change], Path]


def changed(suffix: str = "", **fields: object) -> Change:
    """A change of the members whose name ends so, by their header's fields; ``{}`` stands for what was there."""

    def change(member: tarfile.TarInfo) -> tarfile.TarInfo:
        for name, value in fields.items() if member.name.endswith(suffix) else ():
            was = getattr(member, name)
            setattr(member, name, value.format(was) if isinstance(value, str) else value)
        return member

    return change


@pytest.fixture
def repacked(folder: Path, packed: Path) -> Repacked:
    """Packs the bundle's folder anew in the place of its tar."""

    def repack(change: Change) -> Path:
        with tarfile.open(packed, "w") as tar:
            for item in sorted(path for path in folder.rglob("*") if path.is_file()):
                member = change(tar.gettarinfo(item, item.relative_to(folder).as_posix()))
                tar.addfile(member, io.BytesIO(item.read_bytes()) if member.isreg() else None)
        return packed

    return repack


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*"))


def test_a_tar_opens_as_the_folder_it_was_made_of(folder: Path, packed: Path) -> None:
    bundle = Bundle.open(packed)
    assert bundle.manifest == Bundle.open(folder).manifest
    for record in bundle.manifest.files.values():
        assert bundle.read(record) == (folder / record.path).read_bytes()


def test_a_tar_is_unpacked_once_unless_the_copy_in_the_cache_is_damaged(packed: Path) -> None:
    root = Bundle.open(packed).root
    before = (root / MANIFEST).stat()
    assert Bundle.open(packed).root == root
    assert (root / MANIFEST).stat().st_mtime_ns == before.st_mtime_ns
    next((root / "artifacts").iterdir()).unlink()
    bundle = Bundle.open(packed)
    bundle.verified(bundle.manifest.variants[0].file)


def test_a_tar_with_the_bundles_folder_at_its_top_opens(folder: Path, repacked: Repacked) -> None:
    for prefix in ("bundle/", "./", "./runs/latest/bundle/"):
        assert Bundle.open(repacked(changed(name=prefix + "{}"))).manifest == Bundle.open(folder).manifest


def test_files_that_the_manifest_does_not_name_are_not_unpacked(folder: Path, repacked: Repacked) -> None:
    (folder / "artifacts" / "extra.sh").write_text("#!/bin/sh")
    (folder / "notes.txt").write_text("hello")
    root = Bundle.open(repacked(changed())).root
    assert files_of(root) == {MANIFEST, *Bundle.open(folder).manifest.files}


@pytest.mark.parametrize("name", ["/absolute.onnx", "../../outside.onnx", "artifacts/../../outside.onnx"])
def test_members_that_point_elsewhere_are_never_written(repacked: Repacked, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"no artifacts/.*\.onnx in it"):
        Bundle.open(repacked(changed(".onnx", name=name)))
    assert not list(tmp_path.rglob("outside*"))
    assert not Path("/absolute.onnx").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("suffix", [".onnx", MANIFEST])
def test_what_is_no_regular_file_is_refused(repacked: Repacked, kind: bytes, suffix: str) -> None:
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(repacked(changed(suffix, type=kind, linkname="/etc/passwd", size=0)))


def test_a_sparse_gigabyte_is_refused_before_unpacking(folder: Path, repacked: Repacked, tmp_path: Path) -> None:
    record = Bundle.open(folder).manifest.variants[0].file
    huge = record.model_copy(update={"size": 2**30})
    change_manifest(folder, variants=(make_variant("fp32", "cpu", huge, huge),))

    sparse = {"major": "0", "minor": "1", "size": str(2**30), "map": "0,10", "realsize": str(2**30)}
    headers = {f"GNU.sparse.{name}": value for name, value in sparse.items()}
    with pytest.raises(BundleError, match=r"sparse"):
        Bundle.open(repacked(changed(".onnx", pax_headers=headers)))
    assert not [name for name in cached(tmp_path) if name.endswith(".onnx")]


@pytest.mark.parametrize(
    ("pattern", "more", "message"),
    [(MANIFEST, b" " * 2**24, "over the"), ("artifacts/*", b"more", "while the manifest says")],
)
def test_a_file_that_is_larger_than_it_may_be_is_refused_before_unpacking(
    folder: Path, repacked: Repacked, pattern: str, more: bytes, message: str
) -> None:
    with next(folder.glob(pattern)).open("ab") as file:
        file.write(more)
    with pytest.raises(BundleError, match=message):
        Bundle.open(repacked(changed()))


def test_a_tar_of_countless_members_is_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_MEMBERS", 5)
    with pytest.raises(BundleError, match="more than 5 files"):
        Bundle.open(packed)


def test_a_truncated_tar_is_refused_and_leaves_nothing_behind(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    for part in (0, 100, 512, len(whole) // 3, len(whole) // 2):
        packed.write_bytes(whole[:part])
        with pytest.raises(BundleError, match="expected a bundle's tar"):
            Bundle.open(packed)
    assert not [name for name in cached(tmp_path) if not name.endswith(".lock") and name != "bundles"]


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\x7f" * 11, b"\xff" * 12])
def test_a_header_that_lies_about_its_size_is_refused(packed: Path, size: bytes) -> None:
    data = bytearray(packed.read_bytes())
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    packed.write_bytes(data)
    with pytest.raises(BundleError, match="expected a bundle's tar"):
        Bundle.open(packed)


@pytest.mark.parametrize("content", [b"not a tar", b"\x1f\x8b" + bytes(600), bytes(10240)])
def test_a_file_that_is_no_bundles_tar_is_refused(tmp_path: Path, packed: Path, content: bytes) -> None:
    (tmp_path / "other.tar").write_bytes(content)
    with pytest.raises(BundleError, match="expected a bundle's tar"):
        Bundle.open(tmp_path / "other.tar")


def test_a_tar_of_a_newer_format_says_so(folder: Path, repacked: Repacked) -> None:
    content = json.loads((folder / MANIFEST).read_text()) | {"format_version": 99, "checksum": "of a later kind"}
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="made by a newer hybrid-edge"):
        Bundle.open(repacked(changed()))


def test_an_unwritable_cache_is_named(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(BundleError, match="HYBRID_EDGE_CACHE names another"):
        Bundle.open(packed)


def test_leavings_of_a_killed_process_are_cleared_up(packed: Path) -> None:
    root = Bundle.open(packed).root
    root.rename(root.with_suffix(".unpacking"))
    (root.with_suffix(".unpacking") / MANIFEST).write_text("half")
    assert Bundle.open(packed).root == root
    assert not root.with_suffix(".unpacking").exists()


def test_processes_that_open_it_at_once_get_the_same_whole_bundle(packed: Path) -> None:
    code = """
import sys
from hybrid_edge.runtime.bundle import Bundle
sys.stdin.readline()
bundle = Bundle.open(sys.argv[1])
for record in bundle.manifest.files.values():
    bundle.verified(record)
print(bundle.root)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, packed], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    roots = {process.communicate(timeout=30)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(roots) == 1
