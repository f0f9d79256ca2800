from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.models.bundles import make_bundle, write_manifest

from hybrid_edge.runtime import backends
from hybrid_edge.runtime.backends import Selection, cpu, open_backend
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import (
    ArtifactHashError,
    BackendError,
    BackendUnavailableError,
    BundleError,
    EngineMissingError,
    Int8EngineError,
    UsageError,
)
from hybrid_edge.runtime.manifest import Precision, Target, Variant


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


def changed(bundle: Bundle, name: str, change: Callable[[Variant], Variant]) -> Bundle:
    """The bundle with one variant changed."""
    variants = tuple(change(item) if item.name == name else item for item in bundle.manifest.variants)
    write_manifest(bundle.root, bundle.manifest.model_copy(update={"variants": variants}))
    return Bundle.open(bundle.root)


def over_its_limits(bundle: Bundle, name: str) -> Bundle:
    """The bundle, one variant of which did not pass its parity gate."""

    def fail(variant: Variant) -> Variant:
        return variant.model_copy(update={"parity": variant.parity.model_copy(update={"max_probability_error": 1.0})})

    return changed(bundle, name, fail)


def timed(bundle: Bundle, name: str, ratio: float | None) -> Bundle:
    """The bundle, one variant of which took so many times as long as the next wider one where it was exported."""
    return changed(bundle, name, lambda variant: variant.model_copy(update={"time_ratio": ratio}))


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


@pytest.mark.parametrize(
    ("ratio", "taken"), [(None, "int8-cpu"), (0.2, "int8-cpu"), (1.05, "int8-cpu"), (1.5, "fp32-cpu")]
)
def test_on_the_cpu_auto_takes_the_wider_precision_where_the_exporter_found_it_faster(
    tmp_path: Path, ratio: float | None, taken: str
) -> None:
    bundle = timed(bundle_of(tmp_path, ("fp32", "cpu"), ("int8", "cpu")), "int8-cpu", ratio)
    selection = open_backend(bundle)
    assert chosen(selection) == taken
    reasons = {
        "cpu int8": "int8-cpu took 1.50 times as long as fp32-cpu where it was exported; --precision int8 takes it"
    }
    assert {key: text.removesuffix(" all the same") for key, text in selection.passed_over.items()} == (
        reasons if taken == "fp32-cpu" else {}
    )
    assert chosen(open_backend(bundle, precision="int8")) == "int8-cpu"


def test_a_slower_precision_is_taken_where_there_is_no_other(tmp_path: Path) -> None:
    assert chosen(open_backend(timed(bundle_of(tmp_path, ("int8", "cpu")), "int8-cpu", 2.0))) == "int8-cpu"


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


def skip_on_tensorrt() -> None:
    try:
        TensorRtBackend.require()
    except BackendUnavailableError:
        return
    pytest.skip("this machine has TensorRT and a GPU")


def test_tensorrt_comes_first_and_is_passed_over_where_it_is_not(tmp_path: Path) -> None:
    skip_on_tensorrt()
    assert list(backends.ENGINES) == ["tensorrt", "cuda", "cpu"]
    selection = open_backend(bundle_of(tmp_path, ("fp32", "tensorrt"), ("fp32", "cpu")))
    assert chosen(selection) == "fp32-cpu"
    assert list(selection.passed_over) == ["tensorrt"]


def test_tensorrt_by_name_is_never_replaced(tmp_path: Path) -> None:
    skip_on_tensorrt()
    with pytest.raises(BackendUnavailableError, match=r"TensorRT is not installed|no NVIDIA GPU"):
        open_backend(bundle_of(tmp_path, ("fp32", "tensorrt"), ("fp32", "cpu")), "tensorrt")


def test_a_graph_is_not_even_read_for_an_engine_that_is_not_here(tmp_path: Path) -> None:
    skip_on_tensorrt()
    bundle = bundle_of(tmp_path, ("fp32", "tensorrt"))
    (bundle.root / bundle.manifest.variants[0].file.path).write_bytes(b"damaged")
    with pytest.raises(BackendUnavailableError):
        open_backend(bundle, "tensorrt")


def with_features(bundle: Bundle, name: str, *features: str) -> Bundle:
    """The bundle, one variant of which needs one of these CPU features."""
    variants = tuple(
        item.model_copy(update={"cpu_features": features}) if item.name == name else item
        for item in bundle.manifest.variants
    )
    write_manifest(bundle.root, bundle.manifest.model_copy(update={"variants": variants}))
    return Bundle.open(bundle.root)


def test_a_variant_that_this_cpu_lacks_the_instructions_for_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset({"avx_vnni"}))
    bundle = with_features(bundle_of(tmp_path, ("int8", "cpu"), ("fp32", "cpu")), "int8-cpu", "asimddp", "i8mm")
    selection = open_backend(bundle, "cpu")
    assert chosen(selection) == "fp32-cpu"
    reason = selection.passed_over["cpu int8"]
    assert "expected a CPU with one of asimddp, i8mm" in reason
    assert "with avx_vnni" in reason
    assert chosen(open_backend(bundle)) == "fp32-cpu"


@pytest.mark.parametrize("backend", ["cpu", "auto"])
def test_such_a_variant_asked_for_by_name_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_features", frozenset)
    bundle = with_features(bundle_of(tmp_path, ("int8", "cpu"), ("fp32", "cpu")), "int8-cpu", "avx_vnni")
    with pytest.raises(BackendUnavailableError, match=r"take --precision fp32, or export the bundle again"):
        open_backend(bundle, backend, "int8")


def test_one_feature_of_those_named_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset({"avx_vnni"}))
    bundle = with_features(bundle_of(tmp_path, ("int8", "cpu")), "int8-cpu", "avx512_vnni", "avx_vnni")
    assert chosen(open_backend(bundle)) == "int8-cpu"


class RefusesInt8(Present):
    """A GPU on which the first graph, the INT8 one, does not build."""

    builds: ClassVar[int] = 0

    def _load(self, *arguments: Any) -> None:
        RefusesInt8.builds += 1
        if RefusesInt8.builds == 1:
            raise Int8EngineError("TensorRT could not build the engine in INT8; --precision fp16")
        super()._load(*arguments)


@pytest.fixture
def refuses_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RefusesInt8, "builds", 0)
    monkeypatch.setitem(backends.ENGINES, "tensorrt", RefusesInt8)


@pytest.mark.usefixtures("refuses_int8")
def test_where_int8_does_not_build_auto_takes_the_next_precision_and_says_so(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, ("int8", "tensorrt"), ("fp16", "tensorrt"), ("fp32", "cpu"))
    selection = open_backend(bundle)
    assert chosen(selection) == "fp16-tensorrt"
    assert "in INT8" in selection.passed_over["tensorrt int8"]


@pytest.mark.usefixtures("refuses_int8")
@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_int8_by_name_that_does_not_build_is_refused_and_not_run_elsewhere(tmp_path: Path, backend: str) -> None:
    bundle = bundle_of(tmp_path, ("int8", "tensorrt"), ("fp16", "tensorrt"), ("int8", "cpu"))
    with pytest.raises(Int8EngineError, match="--precision fp16") as caught:
        open_backend(bundle, backend, "int8")
    assert caught.value.exit_code == 3


class NotBuilt(Present):
    """A GPU that has no engines for the first graphs, as many as ``missing`` says, and may build none."""

    missing: ClassVar[int] = 0

    def _load(self, *arguments: Any) -> None:
        NotBuilt.missing -= 1
        if NotBuilt.missing >= 0:
            raise EngineMissingError(f"none yet; hybrid-export builds it ({NotBuilt.missing} more)")
        super()._load(*arguments)


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_where_no_engine_was_built_and_none_may_be_nothing_slower_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setitem(backends.ENGINES, "tensorrt", NotBuilt)
    monkeypatch.setattr(NotBuilt, "missing", 2)
    with pytest.raises(EngineMissingError, match=r"hybrid-export builds it \(1 more\)"):
        open_backend(bundle_of(tmp_path, ("int8", "tensorrt"), ("fp16", "tensorrt"), ("fp32", "cpu")), backend)


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_the_precision_whose_engine_is_there_is_taken_and_the_other_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """As where INT8 does not build: what is left was built, and is what there will be."""
    monkeypatch.setitem(backends.ENGINES, "tensorrt", NotBuilt)
    monkeypatch.setattr(NotBuilt, "missing", 1)
    selection = open_backend(bundle_of(tmp_path, ("int8", "tensorrt"), ("fp16", "tensorrt")), backend)
    assert chosen(selection) == "fp16-tensorrt"
    assert "none yet" in selection.passed_over["tensorrt int8"]


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
