from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, write_manifest

from hybrid_edge.runtime import backends
from hybrid_edge.runtime.backends import Selection, open_backend
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import (
    ArtifactHashError,
    BackendError,
    BackendUnavailableError,
    BundleError,
    UsageError,
)
from hybrid_edge.runtime.manifest import Precision, Target


class Absent(OnnxRuntimeCpu):
    """CUDA on a machine that has none."""

    def _load(self, *_: object) -> None:
        raise BackendUnavailableError("no GPU here")


class Present(OnnxRuntimeCpu):
    """CUDA on a machine that has it, as far as choosing goes."""

    place = "CUDA"


def bundle_of(tmp_path: Path, *variants: tuple[Precision, Target]) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "bundle", variants=variants))


def chosen(selection: Selection) -> str:
    selection.backend.close()
    return selection.variant.name


def over_its_limits(bundle: Bundle, name: str) -> Bundle:
    """The bundle, one variant of which did not pass its parity gate."""
    variants = tuple(
        item.model_copy(update={"parity": item.parity.model_copy(update={"max_probability_error": 1.0})})
        if item.name == name
        else item
        for item in bundle.manifest.variants
    )
    write_manifest(bundle.root, bundle.manifest.model_copy(update={"variants": variants}))
    return Bundle.open(bundle.root)


def test_auto_takes_the_gpu_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.ENGINES, "cuda", Present)
    selection = open_backend(bundle_of(tmp_path, ("fp32", "cpu"), ("fp32", "cuda")))
    assert chosen(selection) == "fp32-cuda"
    assert selection.passed_over == {}


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.ENGINES, "cuda", Absent)
    selection = open_backend(bundle_of(tmp_path, ("fp32", "cpu"), ("fp32", "cuda")))
    assert chosen(selection) == "fp32-cpu"
    assert selection.passed_over == {"cuda": "no GPU here"}
    assert "on CPU, variant fp32-cpu (fp32)" in selection.description


def test_auto_passes_over_what_the_bundle_has_no_variant_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.ENGINES, "cuda", Present)
    assert chosen(open_backend(bundle_of(tmp_path, ("fp32", "tensorrt"), ("fp32", "cpu")))) == "fp32-cpu"


def test_an_engine_asked_for_by_name_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.ENGINES, "cuda", Absent)
    bundle = bundle_of(tmp_path, ("fp32", "cpu"), ("fp32", "cuda"))
    with pytest.raises(BackendUnavailableError, match=r"^no GPU here$"):
        open_backend(bundle, "cuda")
    monkeypatch.setitem(backends.ENGINES, "cuda", Present)
    assert chosen(open_backend(bundle, "cpu")) == "fp32-cpu"


def test_auto_takes_the_narrowest_precision_that_passed_its_gate(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, ("fp32", "cpu"), ("int8", "cpu"), ("fp16", "cpu"))
    assert chosen(open_backend(bundle)) == "int8-cpu"
    assert chosen(open_backend(over_its_limits(bundle, "int8-cpu"))) == "fp16-cpu"


def test_a_precision_asked_for_by_name_is_taken_whatever_its_gate_said(tmp_path: Path) -> None:
    bundle = over_its_limits(bundle_of(tmp_path, ("fp32", "cpu"), ("int8", "cpu")), "int8-cpu")
    assert chosen(open_backend(bundle, precision="int8")) == "int8-cpu"
    assert chosen(open_backend(bundle, precision="fp32")) == "fp32-cpu"


def test_a_variant_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, ("fp32", "cpu"))
    with pytest.raises(BundleError, match=r"expected a variant of fp16 for cpu, found fp32 for cpu; hybrid-export"):
        open_backend(bundle, "cpu", "fp16")
    with pytest.raises(BundleError, match=r"any precision for cuda"):
        open_backend(bundle, "cuda")


def test_a_bundle_of_failed_variants_alone_says_so(tmp_path: Path) -> None:
    bundle = over_its_limits(bundle_of(tmp_path, ("fp32", "cpu")), "fp32-cpu")
    with pytest.raises(BundleError, match=r"over its parity limits: name its precision"):
        open_backend(bundle)


def test_tensorrt_by_name_is_refused_in_this_version(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="does not build TensorRT engines yet"):
        open_backend(bundle_of(tmp_path, ("fp32", "tensorrt")), "tensorrt")


def test_where_no_engine_works_every_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.ENGINES, "cuda", Absent)
    monkeypatch.setitem(backends.ENGINES, "cpu", Absent)
    with pytest.raises(BackendUnavailableError, match=r"cuda: no GPU here; cpu: no GPU here"):
        open_backend(bundle_of(tmp_path, ("fp32", "cuda"), ("fp32", "cpu")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tpu"}, "auto, tensorrt, cuda, cpu, found 'tpu'"),
        ({"precision": "fp64"}, "auto, int8, fp16, fp32, found 'fp64'"),
        ({"threads": 0}, "at least 1 thread"),
    ],
)
def test_an_argument_that_is_none_of_ours_is_a_usage_error(
    bundle: Bundle, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_backend(bundle, **arguments)


def test_a_damaged_graph_is_refused_before_any_engine_parses_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle.root / bundle.manifest.variants[0].file.path
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    monkeypatch.setitem(backends.ENGINES, "cpu", Absent)
    with pytest.raises(ArtifactHashError):
        open_backend(bundle)


def test_a_graph_that_the_last_engine_refuses_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(OnnxRuntimeCpu):
        def _load(self, *_: object) -> None:
            raise BackendError("unknown operator")

    monkeypatch.setitem(backends.ENGINES, "cpu", Refusing)
    with pytest.raises(BackendError, match="unknown operator"):
        open_backend(bundle, "cpu")
