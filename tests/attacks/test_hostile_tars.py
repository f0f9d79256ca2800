"""Tars that write elsewhere, unpack to more than they have, or bring what their manifest does not name."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.models.bundles import files_of

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.manifest import MANIFEST

from .conftest import Refused, use

Members = list[tuple[tarfile.TarInfo, bytes | None]]
Change = Callable[[Members], object]


def members(folder: Path) -> Members:
    found: Members = []
    for name in sorted(files_of(folder)):
        data = (folder / name).read_bytes()
        member = tarfile.TarInfo(name)
        member.size = len(data)
        found.append((member, data))
    return found


def write(path: Path, packed: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for member, data in packed:
            tar.addfile(member, None if data is None else io.BytesIO(data))
    return path


def graph(packed: Members) -> int:
    return next(place for place, (member, _) in enumerate(packed) if member.name.endswith(".onnx"))


def manifest(packed: Members) -> int:
    return next(place for place, (member, _) in enumerate(packed) if member.name == MANIFEST)


def extra(name: str, data: bytes | None = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes | None]:
    member = tarfile.TarInfo(name)
    member.size = len(data or b"")
    for field, value in fields.items():
        setattr(member, field, value)
    return member, data


def kinds() -> Iterator[tuple[str, Change]]:
    """What replaces a member that must be a regular file."""
    for kind, name in {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a disk",
        tarfile.DIRTYPE: "a folder",
        tarfile.GNUTYPE_SPARSE: "a sparse file",
        b"Z": "an unknown kind",
    }.items():
        for of, place in (("graph", graph), ("manifest", manifest)):
            for link in ("/etc/passwd", "../../../etc/passwd", MANIFEST):

                def change(packed: Members, kind: bytes = kind, place: Any = place, link: str = link) -> None:
                    member, _ = packed[place(packed)]
                    member.type, member.linkname, member.size = kind, link, 0
                    packed[place(packed)] = (member, None)

                if kind != b"Z" or of == "manifest":
                    yield f"{name} to {link} as the {of}", change


def named(place: Callable[[Members], int], name: str) -> Change:
    def change(packed: Members) -> None:
        packed[place(packed)][0].name = name.format(packed[place(packed)][0].name)

    return change


def damaged(place: Callable[[Members], int], change: Callable[[bytes], bytes]) -> Change:
    def changed(packed: Members) -> None:
        member, data = packed[place(packed)]
        new = change(data or b"")
        member.size = len(new)
        packed[place(packed)] = (member, new)

    return changed


def each_file_changed() -> Iterator[tuple[str, Change]]:
    """One bit of each file; the sizes stay."""
    for number in range(11):

        def change(packed: Members, number: int = number) -> None:
            files = [place for place, (member, _) in enumerate(packed) if member.name != MANIFEST]
            member, data = packed[files[number]]
            packed[files[number]] = (member, bytes([data[0] ^ 1]) + data[1:] if data else data)

        yield f"a bit of file {number}", change


def hostile() -> dict[str, Change]:
    cases: dict[str, Change] = dict([*kinds(), *each_file_changed()])
    for name in ("/{}", "../{}", "../../{}", "x/../../{}", "./../{}", "//{}", "~/{}"):
        cases[f"the graph named {name!r}"] = named(graph, name)
    for name in ("x/y/{}", "{}.bak", "MANIFEST.JSON", "{}\n"):
        cases[f"the manifest named {name!r}"] = named(manifest, name)
    cases["no manifest"] = lambda packed: packed.pop(manifest(packed))
    cases["no graph"] = lambda packed: packed.pop(graph(packed))
    cases["nothing"] = lambda packed: packed.clear()
    cases["a name of a megabyte"] = lambda packed: packed.insert(0, extra("n" * 10**6))
    cases["a link's name of a megabyte"] = lambda packed: packed.insert(
        0, extra("n", None, type=tarfile.SYMTYPE, linkname="n" * 10**6)
    )
    cases["a PAX header of a megabyte"] = lambda packed: packed.insert(0, extra("n", pax_headers={"x": "y" * 10**6}))
    cases["a PAX header of a size"] = lambda packed: packed.insert(0, extra("n", pax_headers={"size": str(2**60)}))
    cases["a PAX header of no number"] = lambda packed: packed.insert(0, extra("n", pax_headers={"size": "many"}))
    cases["a PAX header of a sparse file"] = lambda packed: packed[graph(packed)][0].pax_headers.update(
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40), "GNU.sparse.name": "x"}
    )
    cases["10,001 members"] = lambda packed: packed.extend(extra(f"{n}") for n in range(10_001))
    cases["a manifest of five megabytes"] = damaged(manifest, lambda data: data + b" " * (5 * 2**20))
    cases["a graph that is longer"] = damaged(graph, lambda data: data + b"more")
    cases["a graph that is shorter"] = damaged(graph, lambda data: data[:-1])
    cases["an empty graph"] = damaged(graph, lambda _: b"")
    cases["the graph twice, the second another"] = lambda packed: packed.append(
        extra(packed[graph(packed)][0].name, bytes(len(packed[graph(packed)][1] or b"")))
    )
    cases["the manifest twice, the second another"] = lambda packed: packed.append(extra(MANIFEST, b"{}"))
    cases["a shorter way to another manifest"] = lambda packed: [
        named(graph, "x/{}")(packed),
        packed.append(extra("b.json", b"{}")),
    ]
    return cases


HOSTILE = hostile()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tar_that_no_export_packed_is_refused(name: str, whole: Path, tmp_path: Path, refused: Refused) -> None:
    packed = members(whole)
    HOSTILE[name](packed)
    refused(write(tmp_path / "bundle.tar", packed, tarfile.GNU_FORMAT if "name of" in name else tarfile.PAX_FORMAT))
    assert not [path for path in tmp_path.rglob("*.onnx") if tmp_path / "cache" not in path.parents]


HARMLESS: dict[str, Change] = {
    "a script beside it": lambda packed: packed.append(extra("run.sh", b"#!/bin/sh\n")),
    "a file in the graph's folder": lambda packed: packed.append(extra("artifacts/x.bin", bytes(1000))),
    "a file above it": lambda packed: packed.append(extra("../../above", b"x")),
    "an absolute file": lambda packed: packed.append(extra("/hybrid-edge-absolute", b"x")),
    "a link out of it": lambda packed: packed.insert(
        0, extra("artifacts", None, type=tarfile.SYMTYPE, linkname="/etc")
    ),
    "a link of a folder's name": lambda packed: packed.append(
        extra("golden", None, type=tarfile.SYMTYPE, linkname="/etc")
    ),
    "a device": lambda packed: packed.append(extra("null", None, type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "a pipe": lambda packed: packed.append(extra("pipe", None, type=tarfile.FIFOTYPE)),
    "rights and owners": lambda packed: [setattr(member, "mode", 0o6777) for member, _ in packed],
    "times of long ago": lambda packed: [setattr(member, "mtime", -(2**40)) for member, _ in packed],
    "owners of escapes": lambda packed: [setattr(member, "uname", "\x1b[2J") for member, _ in packed],
    "another order": lambda packed: packed.reverse(),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_the_manifest_does_not_name_is_not_unpacked(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    packed = members(whole)
    HARMLESS[name](packed)
    root = use(write(tmp_path / "bundle.tar", packed)).root
    assert files_of(root) == files_of(whole)
    assert not [path for path in root.rglob("*") if path.is_symlink() or path.stat().st_mode & 0o6000]
    assert not Path("/hybrid-edge-absolute").exists()


RAW: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: b"\x1f\x8b\x08" + data,
    "zip": lambda data: b"PK\3\4" + data,
    "zeros": lambda _: bytes(10_240),
    "text": lambda _: b"tar" * 1000,
    "half of it": lambda data: data[: len(data) // 2],
    "a header alone": lambda data: data[:512],
    "no end": lambda data: data[:-20_000],
    "a checksum of a header": lambda data: data[:148] + b"0000000\0" + data[156:],
    "a size of octal 7": lambda data: resized(data, b"77777777777\0"),
    "a size below 0": lambda data: resized(data, b"\xff" * 12),
    "a size of 2**87": lambda data: resized(data, b"\x80" + b"\x7f" * 11),
    "a size that is no number": lambda data: resized(data, b"many bytes\0\0"),
    "a long name of terabytes": lambda data: resized(data, b"\x80" + b"\0" * 5 + b"\xff" * 6, b"L"),
    "a PAX header of terabytes": lambda data: resized(data, b"\x80" + b"\0" * 5 + b"\xff" * 6, b"x"),
    "a global header of a megabyte": lambda data: resized(data, b"00004000000\0", b"g"),
    "an old sparse file": lambda data: resized(data, data[124:136], b"S"),
    "2,000 headers of headers": lambda data: (
        b"".join(resized(data[:512], b"00000000000\0", b"x") for _ in range(2000)) + data
    ),
}


def resized(data: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """The tar with another size, and kind, in its first header."""
    header = bytearray(data[:512])
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_tar_of_a_bundle_is_refused(name: str, whole: Path, tmp_path: Path, refused: Refused) -> None:
    path = write(tmp_path / "bundle.tar", members(whole))
    path.write_bytes(RAW[name](path.read_bytes()))
    refused(path)


@pytest.mark.parametrize("pattern", ["artifacts/*.onnx", "golden/*.png", "golden/*.npz"])
def test_an_unpacked_copy_that_was_changed_later_is_noticed(
    pattern: str, whole: Path, tmp_path: Path, refused: Refused
) -> None:
    path = write(tmp_path / "bundle.tar", members(whole))
    root = use(path).root
    changed = next(root.glob(pattern))
    data = changed.read_bytes()
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "SHA-256" in refused(path)


def test_a_copy_with_another_manifest_is_unpacked_anew(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "bundle.tar", members(whole))
    stale = use(path).root / MANIFEST
    stale.write_text(json.dumps({**json.loads(stale.read_text()), "checksum": "0" * 64}))
    assert Bundle.open(path).manifest == Bundle.open(whole).manifest
