import platform
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.gpu.engine_fixtures import skip_where_tensorrt_runs
from support.models.bundles import change_manifest, make_bundle

from hybrid_edge.runtime.backends import ENGINES, Selection, open_backend, selection
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
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
from hybrid_edge.runtime.manifest import Precision, Target

CPUS = {
    "Xeon": "processor\t: 0\nflags\t\t: fpu avx512_vnni amx_int8\n\nprocessor\t: 1\nflags\t\t: avx512_vnni amx_int8\n",
    "hybrid": "processor\t: 0\nflags\t\t: avx2 avx_vnni amx_int8\n\nprocessor\t: 1\nflags\t\t: avx2 avx_vnni\n",
    "old": "processor\t: 0\nflags\t\t: fpu sse4_2 avx2\n",
    "Orin": "processor\t: 0\nFeatures\t: fp asimd crc32\nCPU part\t: 0xd42\n",
}


class Absent(OnnxRuntimeCpu):
    def _load(self, *_: object) -> None:
        raise BackendUnavailableError("no GPU here")


class Present(OnnxRuntimeCpu):
    """CUDA on a machine that has it, as far as choosing goes."""

    device_name = "CUDA"


class Fails(Present):
    """A GPU on which the first graphs, as many as ``count`` says, end with ``error``."""

    error: ClassVar[Exception]
    count: ClassVar[int]

    def _load(self, *arguments: Any) -> None:
        Fails.count -= 1
        if Fails.count >= 0:
            raise Fails.error
        super()._load(*arguments)


def fails(monkeypatch: pytest.MonkeyPatch, count: int, error: Exception) -> None:
    monkeypatch.setattr(Fails, "count", count, raising=False)
    monkeypatch.setattr(Fails, "error", error, raising=False)
    monkeypatch.setitem(ENGINES, "tensorrt", Fails)


def bundle_of(tmp_path: Path, *variants: tuple[Precision, Target]) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "bundle", variants=variants))


def chosen(found: Selection) -> str:
    found.backend.close()
    return found.variant.name


def changed(bundle: Bundle, name: str, **update: object) -> Bundle:
    variants = tuple(item.model_copy(update=update) if item.name == name else item for item in bundle.manifest.variants)
    return change_manifest(bundle.root, variants=variants)


def over_its_limits(bundle: Bundle, name: str) -> Bundle:
    parity = bundle.manifest.variants[0].parity.model_copy(update={"max_probability_error": 1.0})
    return changed(bundle, name, parity=parity)


def test_auto_takes_the_gpu_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "cuda", Present)
    found = open_backend(bundle_of(tmp_path, ("fp32", "cpu"), ("fp32", "cuda")))
    assert chosen(found) == "fp32-cuda"
    assert found.passed_over == {}


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "cuda", Absent)
    found = open_backend(bundle_of(tmp_path, ("fp32", "cpu"), ("fp32", "cuda")))
    assert chosen(found) == "fp32-cpu"
    assert found.passed_over == {"cuda": "no GPU here"}
    assert "on CPU, variant fp32-cpu (fp32)" in found.description


def test_auto_passes_over_what_the_bundle_has_no_variant_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "cuda", Present)
    assert chosen(open_backend(bundle_of(tmp_path, ("fp32", "tensorrt"), ("fp32", "cpu")))) == "fp32-cpu"


def test_an_engine_asked_for_by_name_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "cuda", Absent)
    bundle = bundle_of(tmp_path, ("fp32", "cpu"), ("fp32", "cuda"))
    with pytest.raises(BackendUnavailableError, match=r"^no GPU here$"):
        open_backend(bundle, "cuda")
    monkeypatch.setitem(ENGINES, "cuda", Present)
    assert chosen(open_backend(bundle, "cpu")) == "fp32-cpu"


def test_auto_takes_the_narrowest_precision_that_passed_its_gate(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, ("fp32", "cpu"), ("int8", "cpu"), ("fp16", "cpu"))
    assert chosen(open_backend(bundle)) == "int8-cpu"
    bundle = over_its_limits(bundle, "int8-cpu")
    assert chosen(open_backend(bundle)) == "fp16-cpu"
    assert chosen(open_backend(bundle, precision="int8")) == "int8-cpu"  # by name it is taken whatever its gate said


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("flags : fpu sse2 avx2", "w8-cpu"),
        ("flags : fpu sse2", "fp32-cpu"),
        ("Features : fp asimd asimddp", "w8-cpu"),
        ("Features : fp asimd", "fp32-cpu"),
        ("", "w8-cpu"),
    ],
)
def test_weights_of_8_bits_are_taken_where_the_cpu_has_their_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, taken: str
) -> None:
    bundle = bundle_of(tmp_path, ("fp32", "cpu"), ("w8", "cpu"))
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    monkeypatch.setattr(selection, "CPUINFO_FILE", tmp_path / "cpuinfo")
    selection.x86_flags.cache_clear()
    found = open_backend(bundle)
    selection.x86_flags.cache_clear()
    assert chosen(found) == taken
    assert ("cpu w8" in found.passed_over) == (taken == "fp32-cpu")
    assert chosen(open_backend(bundle, precision="w8")) == "w8-cpu"


OLDER = [(None, "int8-cpu"), (0.2, "int8-cpu"), (1.05, "int8-cpu"), (1.5, "fp32-cpu")]  # bundles that have the ratio


@pytest.mark.parametrize(
    ("timed", "taken"),
    [({"slower": False}, "int8-cpu"), ({"slower": True}, "fp32-cpu")]
    + [({"time_ratio": ratio}, taken) for ratio, taken in OLDER],
)
def test_on_the_cpu_auto_takes_the_wider_precision_where_the_exporter_found_it_faster(
    tmp_path: Path, timed: dict[str, object], taken: str
) -> None:
    bundle = changed(bundle_of(tmp_path, ("fp32", "cpu"), ("int8", "cpu")), "int8-cpu", **timed)
    found = open_backend(bundle)
    assert chosen(found) == taken
    slower = "int8-cpu took clearly longer than fp32-cpu where it was exported"
    told = {"cpu int8": f"{slower}; --precision int8 takes it all the same"}
    assert found.passed_over == (told if taken == "fp32-cpu" else {})
    assert chosen(open_backend(bundle, precision="int8")) == "int8-cpu"


def test_a_slower_precision_is_taken_where_there_is_no_other(tmp_path: Path) -> None:
    bundle = changed(bundle_of(tmp_path, ("int8", "cpu")), "int8-cpu", slower=True)
    assert chosen(open_backend(bundle)) == "int8-cpu"


def test_a_variant_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, ("fp32", "cpu"))
    with pytest.raises(BundleError, match=r"expected a variant of fp16 for cpu, found fp32 for cpu; hybrid-export"):
        open_backend(bundle, "cpu", "fp16")
    with pytest.raises(BundleError, match=r"any precision for cuda"):
        open_backend(bundle, "cuda")
    with pytest.raises(BundleError, match=r"over its parity limits: name its precision"):
        open_backend(over_its_limits(bundle, "fp32-cpu"))


def test_tensorrt_comes_first_and_is_passed_over_where_it_is_not_but_not_by_name(tmp_path: Path) -> None:
    skip_where_tensorrt_runs()
    assert list(ENGINES) == ["tensorrt", "cuda", "cpu"]
    bundle = bundle_of(tmp_path, ("fp32", "tensorrt"), ("fp32", "cpu"))
    found = open_backend(bundle)
    assert chosen(found) == "fp32-cpu"
    assert list(found.passed_over) == ["tensorrt"]
    with pytest.raises(BackendUnavailableError, match=r"TensorRT is not installed|no NVIDIA GPU"):
        open_backend(bundle, "tensorrt")


def test_a_graph_is_not_even_read_for_an_engine_that_is_not_here(tmp_path: Path) -> None:
    skip_where_tensorrt_runs()
    bundle = bundle_of(tmp_path, ("fp32", "tensorrt"))
    (bundle.root / bundle.manifest.variants[0].file.path).write_bytes(b"damaged")
    with pytest.raises(BackendUnavailableError):
        open_backend(bundle, "tensorrt")


@pytest.fixture
def make_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CPU in this one's place: what the process is compiled for, whatever ``/proc/cpuinfo`` shows."""

    def make(machine: str, text: str | None) -> None:
        if text is not None:
            (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(selection, "CPUINFO_FILE", tmp_path / "cpuinfo")
        monkeypatch.setattr(selection, "x86_flags", selection.x86_flags.__wrapped__)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return make


@pytest.mark.parametrize(
    ("machine", "cpu", "needed", "taken"),
    [
        ("x86_64", "Xeon", ("avx512_vnni", "asimddp"), "int8-cpu"),  # one of those named is enough
        ("x86_64", "Xeon", ("avx_vnni", "i8mm"), "fp32-cpu"),
        ("x86_64", "Xeon", (), "int8-cpu"),
        ("x86_64", "hybrid", ("amx_int8",), "fp32-cpu"),  # a thread may run on any of them
        ("x86_64", "old", ("avx512_vnni", "avx_vnni"), "fp32-cpu"),
        ("x86_64", "Orin", ("avx_vnni",), "int8-cpu"),  # says nothing of the kind
        ("x86_64", None, ("avx_vnni",), "int8-cpu"),  # no Linux
        ("aarch64", "Orin", ("avx_vnni", "i8mm"), "int8-cpu"),  # nothing saturates there
        ("arm64", "old", ("avx_vnni",), "int8-cpu"),  # emulated, it may be shown its host's
    ],
)
def test_a_variant_whose_instructions_this_cpu_is_known_to_lack_is_passed_over(
    tmp_path: Path, make_cpu: Any, machine: str, cpu: str | None, needed: tuple[str, ...], taken: str
) -> None:
    make_cpu(machine, None if cpu is None else CPUS[cpu])
    bundle = changed(bundle_of(tmp_path, ("int8", "cpu"), ("fp32", "cpu")), "int8-cpu", cpu_features=needed)
    for backend in ("cpu", "auto"):
        found = open_backend(bundle, backend)
        assert chosen(found) == taken
        assert ("cpu int8" in found.passed_over) == (taken == "fp32-cpu")


@pytest.mark.parametrize("backend", ["cpu", "auto"])
@pytest.mark.parametrize(("cpu", "has"), [("Xeon", "with amx_int8, avx512_vnni"), ("old", "without INT8 dot products")])
def test_such_a_variant_asked_for_by_name_is_refused_with_the_remedy(
    tmp_path: Path, make_cpu: Any, backend: str, cpu: str, has: str
) -> None:
    make_cpu("x86_64", CPUS[cpu])
    bundle = bundle_of(tmp_path, ("int8", "cpu"), ("fp32", "cpu"))
    bundle = changed(bundle, "int8-cpu", cpu_features=("avx_vnni", "asimddp"))
    message = f"expected a CPU with one of avx_vnni, asimddp, found x86_64 {has}; take --precision fp32, or export the"
    with pytest.raises(BackendUnavailableError, match=message):
        open_backend(bundle, backend, "int8")


def test_this_cpu_is_read_without_an_error() -> None:
    flags = selection.x86_flags()
    assert flags is None or "fpu" in flags


REFUSED = Int8EngineError("TensorRT could not build the engine in INT8; --precision fp16")
MISSING = EngineMissingError("none yet; hybrid-export builds it")


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
@pytest.mark.parametrize("error", [REFUSED, MISSING])
def test_where_int8_does_not_build_or_was_not_built_the_next_precision_is_taken_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, error: Exception
) -> None:
    fails(monkeypatch, 1, error)
    found = open_backend(bundle_of(tmp_path, ("int8", "tensorrt"), ("fp16", "tensorrt"), ("fp32", "cpu")), backend)
    assert chosen(found) == "fp16-tensorrt"
    assert found.passed_over == {"tensorrt int8": str(error)}


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_int8_by_name_that_does_not_build_is_refused_and_not_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    fails(monkeypatch, 1, REFUSED)
    bundle = bundle_of(tmp_path, ("int8", "tensorrt"), ("fp16", "tensorrt"), ("int8", "cpu"))
    with pytest.raises(Int8EngineError, match="--precision fp16") as caught:
        open_backend(bundle, backend, "int8")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_where_no_engine_was_built_and_none_may_be_nothing_slower_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    fails(monkeypatch, 2, MISSING)
    with pytest.raises(EngineMissingError, match=r"hybrid-export builds it"):
        open_backend(bundle_of(tmp_path, ("int8", "tensorrt"), ("fp16", "tensorrt"), ("fp32", "cpu")), backend)


def test_where_no_engine_works_every_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "cuda", Absent)
    monkeypatch.setitem(ENGINES, "cpu", Absent)
    with pytest.raises(BackendUnavailableError, match=r"cuda: no GPU here; cpu: no GPU here"):
        open_backend(bundle_of(tmp_path, ("fp32", "cuda"), ("fp32", "cpu")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tpu"}, "auto, tensorrt, cuda, cpu, found 'tpu'"),
        ({"precision": "fp64"}, "auto, int8, fp16, w8, fp32, found 'fp64'"),
        ({"threads": 0}, "at least 1 thread"),
    ],
)
def test_an_argument_that_is_not_ours_is_a_usage_error(bundle: Bundle, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_backend(bundle, **arguments)


def test_a_damaged_graph_is_refused_before_an_engine_parses_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle.root / bundle.manifest.variants[0].file.path
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    monkeypatch.setitem(ENGINES, "cpu", Absent)
    with pytest.raises(ArtifactHashError):
        open_backend(bundle)


def test_a_graph_that_the_last_engine_refuses_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(OnnxRuntimeCpu):
        def _load(self, *_: object) -> None:
            raise BackendError("unknown operator")

    monkeypatch.setitem(ENGINES, "cpu", Refusing)
    with pytest.raises(BackendError, match="unknown operator"):
        open_backend(bundle, "cpu")
