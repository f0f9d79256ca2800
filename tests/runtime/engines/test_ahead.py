from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.models.bundles import make_bundle, make_graph, make_weights, store, write_manifest

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.ahead import build_rtx, parse_architectures
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.errors import ArtifactHashError, EngineError, UsageError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "bundle", variants=(("fp32", "tensorrt"), ("fp32", "cpu"))))


def test_every_tensorrt_variant_is_built_for_every_architecture_and_labelled(
    bundle: Bundle, rtx: Library, tmp_path: Path
) -> None:
    engines = build_rtx(bundle, ("sm86", "sm120"), tmp_path / "engines")
    assert [(item.variant, item.architecture) for item in engines] == [
        ("fp32-tensorrt", "sm86"),
        ("fp32-tensorrt", "sm120"),
    ]
    assert sorted(path.name for path in (tmp_path / "engines").iterdir()) == [
        "fp32-tensorrt-rtx-sm120.engine",
        "fp32-tensorrt-rtx-sm120.json",
        "fp32-tensorrt-rtx-sm86.engine",
        "fp32-tensorrt-rtx-sm86.json",
    ]
    assert engines[0].path.read_bytes()[1:4] == b"trt"
    assert engines[0].path.read_bytes() != engines[1].path.read_bytes()
    record = json.loads(engines[1].path.with_suffix(".json").read_text())
    assert record["kind"] == "rtx"
    assert "for sm120: desktop RTX cards, not for Jetson" in record["label"]
    assert record["version"] == rtx.version
    assert record["onnx_sha256"] == bundle.manifest.variants[0].file.sha256
    assert record["sha256"] == hashlib.sha256(engines[1].path.read_bytes()).hexdigest()
    assert record["size"] == engines[1].size == engines[1].path.stat().st_size


def test_engines_of_graphs_that_are_gone_are_removed(bundle: Bundle, rtx: Library, tmp_path: Path) -> None:
    out = tmp_path / "engines"
    build_rtx(bundle, ("sm86", "sm89"), out)
    (out / "mine.json").write_text("{}")
    other = store(bundle.root, "artifacts", "onnx", make_graph(bundle.spec, make_weights(bundle.spec, seed=8)))
    variants = tuple(item.model_copy(update={"file": other}) for item in bundle.manifest.variants)
    write_manifest(bundle.root, bundle.manifest.model_copy(update={"variants": variants}))
    build_rtx(Bundle.open(bundle.root), ("sm89",), out)
    assert sorted(path.name for path in out.iterdir()) == [
        "fp32-tensorrt-rtx-sm89.engine",
        "fp32-tensorrt-rtx-sm89.json",
        "mine.json",
    ]


def test_a_damaged_graph_is_refused_before_tensorrt_parses_it(bundle: Bundle, rtx: Library, tmp_path: Path) -> None:
    path = bundle.root / bundle.manifest.variants[0].file.path
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(ArtifactHashError):
        build_rtx(bundle, ("sm89",), tmp_path / "engines")


def test_a_folder_that_can_not_be_written_is_a_typed_error(bundle: Bundle, rtx: Library, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="engines can't be written here"):
        build_rtx(bundle, ("sm89",), tmp_path / "file" / "engines")


def test_architectures_are_read_as_they_are_written() -> None:
    assert parse_architectures("sm89") == ("sm89",)
    assert parse_architectures("SM80, sm86,sm89,sm120,sm80") == ("sm80", "sm86", "sm89", "sm120")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sm87", r"found 'sm87': that is a Jetson Orin, on which TensorRT-RTX does not run"),
        ("sm89,sm75", r"found 'sm75': TensorRT-RTX has no FP32 matrix product for it \(Turing\)"),
        ("ada", r"expected RTX architectures among sm80, sm86, sm89, sm120, found 'ada'"),
        ("", "found ''"),
    ],
)
def test_an_architecture_that_is_none_is_wrong_usage_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_architectures(text)
