import json
from pathlib import Path
from typing import Any

import pytest
from support.models.bundles import files_of

from hybrid_edge.runtime.errors import BundleError
from hybrid_edge.runtime.manifest import FORMAT_VERSION, MANIFEST, MAX_MANIFEST_SIZE, parse_manifest


@pytest.fixture
def content(folder: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    del parsed["checksum"]  # what is changed here is not damaged
    return parsed


def parse(content: object) -> object:
    return parse_manifest(json.dumps(content).encode())


def test_a_manifest_lists_every_file_of_the_bundle(folder: Path) -> None:
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    assert {MANIFEST, *manifest.files} == files_of(folder)


def test_a_manifest_survives_writing_and_reading(content: dict[str, Any]) -> None:
    manifest = parse_manifest(json.dumps(content).encode())
    assert parse_manifest(manifest.model_dump_json().encode()) == manifest


def test_a_field_of_a_later_minor_version_is_ignored(content: dict[str, Any]) -> None:
    parse({**content, "later": 1})


def test_a_newer_format_is_refused_with_the_way_to_upgrade(content: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=rf"version {FORMAT_VERSION} or older, found {FORMAT_VERSION + 1}.*upgrade"):
        parse({"format": content["format"], "format_version": FORMAT_VERSION + 1, "all": "different"})


@pytest.mark.parametrize("version", [0, -1, "one", None, 1.5, []])
def test_a_format_version_that_never_was_is_refused(content: dict[str, Any], version: object) -> None:
    with pytest.raises(BundleError, match="version"):
        parse({**content, "format_version": version})


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"name": "a browser extension"}']
)
def test_what_is_not_a_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(BundleError, match="expected"):
        parse_manifest(text)


def test_a_manifest_beyond_all_measure_is_refused_before_parsing() -> None:
    with pytest.raises(BundleError, match="at most"):
        parse_manifest(b" " * (MAX_MANIFEST_SIZE + 1))


@pytest.mark.parametrize(
    "path",
    ["../x.onnx", "/etc/passwd", "a/b/c.onnx", "a/../x", ".hidden", "a/.hidden", *("a\\b", "", "a/", "a\n", "./x")],
)
def test_a_path_that_could_leave_the_bundle_is_refused(content: dict[str, Any], path: str) -> None:
    content["variants"][0]["file"]["path"] = path
    with pytest.raises(BundleError, match=r"variants\.0\.file\.path"):
        parse(content)


@pytest.mark.parametrize("missing", ["spec", "preprocessing", "variants", "golden", "weights_sha256"])
def test_a_missing_part_is_named(content: dict[str, Any], missing: str) -> None:
    del content[missing]
    with pytest.raises(BundleError, match=missing):
        parse(content)


def test_many_faults_are_counted_and_not_all_listed(content: dict[str, Any]) -> None:
    for item in content["golden"]["images"]:
        item["file"]["sha256"] = "x"
    with pytest.raises(BundleError, match="and 3 more"):
        parse(content)


def test_a_manifest_without_class_labels_or_examples_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="class labels"):
        parse({**content, "spec": {**content["spec"], "class_labels": []}})
    with pytest.raises(BundleError, match="golden examples"):
        parse({**content, "golden": {**content["golden"], "images": []}})
