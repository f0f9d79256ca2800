"""Manifests that lie, are damaged, or are made to take memory, time, or a terminal."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError
from hybrid_edge.runtime.manifest import CHECKSUM, MANIFEST, parse_manifest, sealed

from .conftest import Refused, use

LONG = "x" * 10**6
ESCAPES = "\x1b]0;owned\x07\x1b[2J"
DEEP: Any = "bottom"
for _ in range(90):
    DEEP = {"x": DEEP}

FILE, VARIANT, SPEC, IMAGE = "variants.0.file", "variants.0", "spec", "golden.images.0"
# a place in the manifest -> what is put there
VALUES: dict[str, list[Any]] = {
    "format": ["", "other", LONG, None, 1, [], DEEP, ESCAPES],
    "format_version": [0, -1, 1.5, "1", None, [], 4, 2**70, "9" * 5000, float("inf")],
    f"{FILE}.path": [
        "../artifacts/x.onnx",
        "/etc/passwd.onnx",
        "artifacts/../x.onnx",
        "artifacts//x.onnx",
        "artifacts\\x.onnx",
        "artifacts/x.onnx\0.png",
        "artifacts/x.onnx\n",
        "~/x.onnx",
        "a/b/x.onnx",
        ".hidden.onnx",
        "artifacts/x.ort",
        "artifacts/x",
        "manifest.json",
        "artifacts/\u202exnno.onnx",
        LONG,
        f"{LONG}.onnx",
        ESCAPES,
        "",
        None,
        7,
        DEEP,
    ],
    f"{FILE}.size": [-1, 2**31, 2**63, 10**400, 1.5, float("inf"), float("nan"), "1", None, True, LONG],
    f"{FILE}.sha256": ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, LONG, None, 1, "0" * 63 + "\n"],
    f"{VARIANT}.golden_tolerance": [1e9, 0.2501, 1.0, 0, -1, float("inf"), float("nan"), None, "wide", 10**400],
    f"{VARIANT}.name": [LONG, ESCAPES, "", None, 1, "a\nb", "../../x", "/etc/x", "..", "a/b", "a\\b", "a\0", "x" * 65],
    f"{VARIANT}.precision": ["int4", LONG, None, ESCAPES],
    f"{VARIANT}.target": ["cuda11", LONG, None],
    f"{VARIANT}.recurrent": ["loop", LONG],
    f"{VARIANT}.opset": [LONG, None, 1.5, 10**400],
    f"{VARIANT}.operators": [{LONG: 1}, {ESCAPES: 1}, {"Conv": LONG}, [1], None],
    f"{VARIANT}.made_by": [{"x": LONG}, {LONG: "x"}, {"x": ESCAPES}],
    f"{VARIANT}.warnings": [[LONG], LONG, [1]],
    f"{VARIANT}.cpu_features": [[LONG], [ESCAPES], 1],
    f"{VARIANT}.parity": [None, {}, [], LONG],
    f"{VARIANT}.parity.measured_on": [LONG, None],
    f"{VARIANT}.time_ratio": [-1, 0, LONG],
    f"{VARIANT}.temperature": [
        {"value": 1e9, "images": 1, "error_before": 0, "error_after": 0},
        {"value": 0, "images": 1, "error_before": 0, "error_after": 0},
        {"value": float("nan"), "images": 1, "error_before": 0, "error_after": 0},
        LONG,
    ],
    "variants": [[], None, {}, LONG, [None], [DEEP]],
    "weights_sha256": [LONG, "", None, ESCAPES],
    f"{SPEC}.image_size": [0, -1, 7, 4097, 10**9, 2**63, 10**400, 1.5, None, float("nan")],
    f"{SPEC}.timesteps": [0, -1, 7, 10**9, 2**63, 10**400, None, LONG],
    f"{SPEC}.rnn_units": [0, -1, 16385, 10**12, None],
    f"{SPEC}.rnn_layers": [0, 17, 10**12],
    f"{SPEC}.backbone": [LONG, ESCAPES, None, "__import__"],
    f"{SPEC}.branches": ["all", LONG, "adopted\0"],
    f"{SPEC}.scaling": [LONG, "x / 255"],
    f"{SPEC}.class_labels": [
        [],
        ["a", "a"],
        [LONG, "b"],
        [ESCAPES, "b"],
        ["two\nlines", "b"],
        ["\x00", "b"],
        ["\x9b31m", "b"],
        ["", "b"],
        [1, 2],
        None,
        LONG,
        ["same"] * 200_000,
        [str(number) for number in range(140_000)],
    ],
    f"{SPEC}.more": [1, LONG],
    "preprocessing": [
        None,
        [],
        LONG,
        {},
        {"scaling": LONG},
        {LONG: 1},
        {ESCAPES: ESCAPES},
        {str(n): n for n in range(9999)},
    ],
    "preprocessing.scaling": ["x / 255", LONG, ESCAPES, DEEP],
    f"{IMAGE}.label": [LONG, ESCAPES, None],
    f"{IMAGE}.file.path": ["../x.png", LONG, "golden/x\0.png", "manifest.json"],
    f"{IMAGE}.file.size": [-1, 2**31, 10**400],
    "golden.images": [[], None, LONG, {}],
    "golden.tensors": [None, {}, LONG],
    "golden.tensors.path": ["/dev/zero", "../../x.npz", LONG],
    "provenance": [None, [], LONG],
    "provenance.created": [LONG, ESCAPES, "", None],
    "provenance.hybrid_edge": [LONG, ESCAPES, "9" * 257],
    "provenance.run": [LONG, None, 1],
    "provenance.packages": [{LONG: "1"}, {"numpy": LONG}, {"numpy": ESCAPES}, [1]],
    "provenance.metrics": [{LONG: 1.0}, {"accuracy": LONG}, None],
}
CASES = [(place, number) for place, values in VALUES.items() for number in range(len(values))]


def replaced(folder: Path, place: str, value: Any) -> None:
    """Put a value into the manifest, which then has no checksum, as those of older versions."""
    content = json.loads((folder / MANIFEST).read_text())
    del content[CHECKSUM]
    *way, last = place.split(".")
    here = content
    for name in way:
        here = here[int(name) if name.isdigit() else name]
    here[last] = value
    (folder / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize(("place", "number"), CASES)
def test_a_value_that_no_export_writes_is_refused(place: str, number: int, target: Path, refused: Refused) -> None:
    replaced(target, place, VALUES[place][number])
    refused(target)


def manifest(folder: Path) -> bytes:
    return (folder / MANIFEST).read_bytes()


def opened(number: int, pair: bytes) -> Callable[[bytes], bytes]:
    """So many brackets of a kind, one in the other, before all that the manifest says."""
    return lambda data: b'{"x":' + pair[:1] * number + pair[1:] * number + b"," + data[1:]


TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "one byte less": lambda data: data.rstrip()[:-1],
    "more behind it": lambda data: data + b"{}",
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "a byte of zero": lambda data: data.replace(b"\n", b"\0", 1),
    "no UTF-8": lambda data: data.replace(b"apple", b"app\xffe"),
    "half a surrogate": lambda data: data.replace(b"apple", b"\\ud800pple"),
    "brackets in brackets": opened(100_000, b"[]"),
    "objects in brackets": lambda data: b'{"x":' + b'{"x":' * 10**5 + b"1" + b"}" * 10**5 + b"," + data[1:],
    "five megabytes of lists": lambda data: b'{"x":[' + b"[]," * (5 * 2**20 // 3) + b"[]]," + data[1:],
    "a number of a megabyte": lambda data: b'{"x":' + b"9" * 10**6 + b"," + data[1:],
    "a member twice": lambda data: data.replace(b"{", b'{"spec": {},', 1).replace(b'"spec"', b'"spec"', 1),
    "no object": lambda data: b"[" + data + b"]",
    "a text": lambda data: json.dumps(data.decode()).encode(),
    "a pickle": lambda _: b"\x80\x04\x95",
    "YAML": lambda _: b"format: hybrid-edge-bundle\n!!python/object/apply:os.system [id]\n",
    "comments": lambda data: b"// a comment\n" + data,
    "another checksum": lambda data: data[:-70] + b"0" * 64 + data[-6:],
    "a checksum cut short": lambda data: data.replace(b'"\n}', b"\n}")[:-1],
    "a checksum by another name": lambda data: data.replace(b'"checksum"', b'"checksun"'),
    "a checksum in capitals": lambda data: data[:-68] + data[-68:].upper(),
    "a changed label": lambda data: data.replace(b'"apple"', b'"apply"', 1),
    "a changed size": lambda data: data.replace(b'"size": ', b'"size": 1', 1),
    "a changed space": lambda data: data.replace(b"  ", b" \t", 1),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_no_export_writes_is_refused(name: str, target: Path, refused: Refused) -> None:
    (target / MANIFEST).write_bytes(TEXTS[name](manifest(target)))
    refused(target)


def test_none_of_300_flipped_bits_passes(whole: Path) -> None:
    data = manifest(whole)
    places = random.Random(19).sample(range(8 * len(data)), 300)
    assert [place for place in places if passes(flipped(data, place))] == []


def test_no_flipped_bit_in_the_last_200_bytes_passes(whole: Path) -> None:
    data = manifest(whole)
    places = range(8 * (len(data) - 200), 8 * len(data))
    assert [place for place in places if passes(flipped(data, place))] == []


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def passes(data: bytes) -> bool:
    try:
        parse_manifest(data)
    except BundleError:
        return False
    return True


def test_a_manifest_without_a_checksum_of_an_older_version_is_read(target: Path) -> None:
    replaced(target, "provenance.run", "runs/older")
    assert use(target).manifest.provenance.run == "runs/older"


def test_what_was_sealed_is_read_and_sealed_again_to_the_same_bytes(whole: Path) -> None:
    assert sealed(Bundle.open(whole).manifest) == manifest(whole)


@pytest.mark.parametrize("size", [2**21, 2**22 - 2**16])
def test_a_manifest_of_empty_lists_takes_little_memory(size: int, target: Path) -> None:
    lists = b'{"x":[' + b"[]," * (size // 3) + b"[]],"
    data = (
        lists
        + json.dumps({key: value for key, value in json.loads(manifest(target)).items() if key != CHECKSUM}).encode()[
            1:
        ]
    )
    assert parse_manifest(data).spec == Bundle.open(target).spec
