"""What of the TensorRT backend needs no GPU: which one, loading, refusals; tests/gpu has the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.gpu.engine_fixtures import ADA, ORIN, another_users
from support.gpu.fake_gpu import Error
from support.gpu.fake_tensorrt import _Engine, _RuntimeCache, fake_build
from support.models.bundles import make_bundle
from support.models.small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime.backends import open_backend
from hybrid_edge.runtime.backends.cuda import find_gpu
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend, engine, find_tensorrt
from hybrid_edge.runtime.backends.tensorrt.engine import LoadedEngine, StaleEngineError
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.build import BuiltEngine, build_engine
from hybrid_edge.runtime.engines.cache import EngineCache
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.gpu import Gpu
from hybrid_edge.runtime.engines.library import Library, Messages, find_library, make_interface
from hybrid_edge.runtime.engines.progress import Reporter
from hybrid_edge.runtime.errors import BackendError, BackendUnavailableError, EngineError, EngineMissingError
from hybrid_edge.runtime.storage import cache_dir


def has(monkeypatch: pytest.MonkeyPatch, *kinds: str, gpu: Gpu = ADA) -> None:
    """A machine with these libraries and this GPU."""
    monkeypatch.setattr(engine, "installed", lambda kind: kind in kinds)
    monkeypatch.setattr(engine, "find_library", lambda kind: kind)
    monkeypatch.setattr(engine, "find_gpu", lambda: gpu)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def test_tensorrt_comes_before_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "tensorrt", "rtx")
    assert find_tensorrt() == ("tensorrt", ADA)
    has(monkeypatch, "rtx")
    assert find_tensorrt() == ("rtx", ADA)


def test_rtx_is_never_offered_to_a_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "rtx", gpu=ORIN)
    with pytest.raises(BackendUnavailableError, match=r"for desktop RTX cards, not for Orin.*JetPack's TensorRT"):
        find_tensorrt()
    has(monkeypatch, "tensorrt", "rtx", gpu=ORIN)
    assert find_tensorrt() == ("tensorrt", ORIN)


def test_without_either_the_extras_are_named_and_no_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch)
    monkeypatch.setattr(engine, "find_gpu", lambda: pytest.fail("asked for the GPU"))
    with pytest.raises(BackendUnavailableError, match=r"hybrid-edge\[tensorrt\].*hybrid-edge\[rtx\].*JetPack"):
        find_tensorrt()


def test_a_backend_without_a_gpu_is_unavailable(tmp_path: Path) -> None:
    try:
        find_tensorrt()
    except BackendUnavailableError:
        pass
    else:
        pytest.skip("this machine has TensorRT and a GPU")
    path = tmp_path / "model.onnx"
    path.write_bytes(lstm_graph())
    with pytest.raises(BackendUnavailableError):
        TensorRtBackend(path, SPEC)


@pytest.mark.parametrize("integrated", [False, True])
def test_everything_is_given_back(make_machine: Callable[..., Any], graph: Path, inputs: Any, integrated: bool) -> None:
    machine = make_machine(integrated=integrated)
    before = machine.cuda.free
    backend = TensorRtBackend(graph, SPEC)
    buffers = backend.buffers(3, 2)
    ticket = backend.submit(buffers[0], 2)
    backend.collect(ticket)
    backend.run(inputs(9))
    backend.submit(buffers[1], 3)  # still under way
    assert machine.cuda.live["streams"] == 3
    backend.close()
    backend.close()
    assert machine.cuda.live == {}
    assert machine.cuda.free == before
    with pytest.raises(BackendError, match="was closed"):
        backend.run(inputs(1))
    with pytest.raises(BackendError, match="was closed"):
        backend.submit(buffers[0], 1)


@pytest.mark.parametrize(
    ("refuses", "message"),
    [
        ("engine", r"does not load .*\.engine \(deserialize_cuda_engine: the engine plan file is not compatible\)"),
        ("context", "create_execution_context failed: it gave no reason; a smaller --profile"),
    ],
)
def test_an_engine_that_does_not_load_leaves_nothing_behind(
    machine: Any, graph: Path, refuses: str, message: str
) -> None:
    machine.trt.refuses = refuses
    with pytest.raises(EngineError, match=message):
        TensorRtBackend(graph, SPEC)
    assert machine.cuda.live == {}


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc", "cudaEventCreateWithFlags", "cudaMemsetAsync"])
def test_a_gpu_with_too_little_memory_says_so_and_leaves_nothing_behind(machine: Any, graph: Path, call: str) -> None:
    machine.cuda.fails[call] = Error.cudaErrorMemoryAllocation
    with pytest.raises(
        BackendError, match=rf"CUDA's {call} failed \(cudaErrorMemoryAllocation, code 2: out of memory\); a smaller"
    ):
        TensorRtBackend(graph, SPEC)
    assert machine.cuda.live == {}


def test_buffers_that_do_not_fit_are_refused_and_what_was_there_goes_on(machine: Any, graph: Path, inputs: Any) -> None:
    with TensorRtBackend(graph, SPEC) as backend:
        before = machine.cuda.live
        machine.cuda.free = 100_000
        with pytest.raises(BackendError, match="cudaMalloc failed"):
            backend.buffers(8, 1)
        assert machine.cuda.live == before
        backend.run(inputs(2))


def test_an_engine_of_another_shape_is_refused(machine: Any, graph: Path) -> None:
    with pytest.raises(EngineError, match=r"expected an engine with the tensors .*logits \(-1, 3\)"):
        TensorRtBackend(graph, SPEC.replace(class_labels=("a", "b", "c")))
    assert machine.cuda.live == {}


def test_an_engine_that_tensorrt_takes_no_more_is_built_again_once(
    machine: Any, graph: Path, monkeypatch: pytest.MonkeyPatch, inputs: Any
) -> None:
    TensorRtBackend(graph, SPEC).close()
    builds: list[bool] = []
    said: list[str] = []

    def build(*arguments: Any, **settings: Any) -> BuiltEngine:
        builds.append(True)
        machine.trt.refuses = ""
        return fake_build(*arguments, **settings)

    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", build)
    machine.trt.refuses = "engine"
    with TensorRtBackend(graph, SPEC, reporter=Reporter(said.append)) as backend:
        backend.run(inputs(2))
    assert len(builds) == 1
    assert "the engine plan file is not compatible); building it again" in said[0]
    assert machine.cuda.live == {}


def test_such_an_engine_in_another_users_cache_is_built_and_used_from_memory(
    machine: Any, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: Any
) -> None:
    TensorRtBackend(graph, SPEC).close()

    def build(*arguments: Any, **settings: Any) -> BuiltEngine:
        machine.trt.refuses = ""
        return fake_build(*arguments, **settings)

    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", build)
    machine.trt.refuses = "engine"
    said: list[str] = []
    with (
        another_users(tmp_path / "cache" / "engines"),
        TensorRtBackend(graph, SPEC, reporter=Reporter(said.append)) as backend,
    ):
        backend.run(inputs(2))
    assert "the engine plan file is not compatible); building it again" in said[0]
    assert any("this run has its engine in memory, the next one builds it again" in line for line in said)


def test_a_tensorrt_that_does_not_start_is_not_available(machine: Any, graph: Path) -> None:
    machine.trt.refuses = "runtime"
    with pytest.raises(
        BackendUnavailableError,
        match=r"TensorRT 10\.3\.0 does not start here: CUDA initialization failure with error: 35;",
    ):
        TensorRtBackend(graph, SPEC)
    assert machine.cuda.live == {}


@pytest.mark.parametrize("fails", ["runtime", "builder"])
def test_where_tensorrt_does_not_start_auto_goes_on_to_the_next_engine(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def build(*_: Any, **__: Any) -> None:
        make_interface(Library(machine.trt, "tensorrt", "10.3.0"), machine.trt.Runtime, Messages())

    monkeypatch.setattr(TensorRtBackend, "require", lambda: None)
    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", build if fails == "builder" else fake_build)
    machine.trt.refuses = "runtime"
    bundle = Bundle.open(make_bundle(tmp_path / "bundle", variants=(("fp32", "tensorrt"), ("fp32", "cpu"))))
    found = open_backend(bundle)
    with found.backend:
        assert found.variant.target == "cpu"
    assert "does not start here: CUDA initialization failure with error: 35" in found.passed_over["tensorrt"]


def opened_twice(graph: Path, batch: dict[str, Any], between: Callable[[Path], object]) -> list[str]:
    """What is said by a backend that finds what an earlier one kept, after something was done to that."""
    with TensorRtBackend(graph, SPEC) as backend:
        backend.buffers(3, 1)
        backend.run(batch)
    between(next((cache_dir() / "engines").glob("*.kernels")))
    said: list[str] = []
    with TensorRtBackend(graph, SPEC, reporter=Reporter(said.append)) as backend:
        backend.run(batch)
    return said


def test_what_tensorrt_rtx_compiled_is_kept_beside_the_engine(
    make_machine: Callable[..., Any], graph: Path, inputs: Any
) -> None:
    machine = make_machine(kind="rtx")
    compiled: list[int] = []

    def between(kernels: Path) -> None:
        assert kernels.with_suffix(".engine").exists()
        compiled.extend(machine.trt.compiled)
        machine.trt.compiled.clear()

    assert opened_twice(graph, inputs(2), between) == []
    assert compiled == [3, 1, 2]  # each size once, though each graph has a context of its own
    assert machine.trt.compiled == []
    with TensorRtBackend(graph, SPEC) as backend:
        backend.run(inputs(5))
    assert EngineCache().read_note(next((cache_dir() / "engines").glob("*.kernels")).name) == b"[1, 2, 3, 5]"


def test_buffers_that_were_tried_out_have_their_kernels_kept_at_once(
    make_machine: Callable[..., Any], graph: Path
) -> None:
    """Who runs for a year may be killed in the end."""
    make_machine(kind="rtx")
    with TensorRtBackend(graph, SPEC) as backend:
        backend.buffers(3, 2)
        assert EngineCache().read_note(next((cache_dir() / "engines").glob("*.kernels")).name) == b"[1, 2, 3]"


@pytest.mark.parametrize("damage", ["truncated", "of another driver"])
def test_kernels_that_are_damaged_or_do_not_fit_are_compiled_again(
    make_machine: Callable[..., Any], graph: Path, inputs: Any, damage: str
) -> None:
    machine = make_machine(kind="rtx")

    def between(kernels: Path) -> None:
        machine.trt.compiled.clear()
        if damage == "truncated":
            kernels.write_bytes(kernels.read_bytes()[:-1])
        else:
            EngineCache().keep_note(kernels.name, b"{}")

    assert opened_twice(graph, inputs(2), between) == []
    assert machine.trt.compiled == [2]
    assert EngineCache().read_note(next((cache_dir() / "engines").glob("*.kernels")).name) == b"[2]"


def test_kernels_that_can_not_be_kept_cost_a_line(
    make_machine: Callable[..., Any], graph: Path, tmp_path: Path, inputs: Any
) -> None:
    make_machine(kind="rtx")
    TensorRtBackend(graph, SPEC).close()
    said: list[str] = []
    with (
        another_users(tmp_path / "cache" / "engines"),
        TensorRtBackend(graph, SPEC, reporter=Reporter(said.append)) as backend,
    ):
        backend.run(inputs(2))
    assert len(said) == 1
    assert "can't be kept here (Permission denied)" in said[0]
    assert said[0].endswith("; the next start compiles its kernels again")


def raising(*_: Any) -> None:
    raise RuntimeError("pybind11's")


@pytest.mark.parametrize("call", ["serialize", "deserialize"])
def test_kernels_that_can_not_be_had_or_taken_cost_nothing_but_time(
    make_machine: Callable[..., Any], graph: Path, inputs: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    machine = make_machine(kind="rtx")

    def between(_: Path) -> None:
        machine.trt.compiled.clear()
        monkeypatch.setattr(_RuntimeCache, call, raising)

    assert opened_twice(graph, inputs(2), between) == []
    assert machine.trt.compiled == ([2] if call == "deserialize" else [])
    assert machine.cuda.live == {}


def test_contexts_that_can_not_be_configured_leave_nothing_behind(
    make_machine: Callable[..., Any], graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(kind="rtx")
    monkeypatch.setattr(_Engine, "create_runtime_config", raising)
    with pytest.raises(RuntimeError, match="pybind11's"):
        TensorRtBackend(graph, SPEC)
    assert machine.cuda.live == {}


def test_tensorrt_has_no_kernels_to_keep(machine: Any, graph: Path) -> None:
    with TensorRtBackend(graph, SPEC) as backend:
        backend.buffers(3, 2)
    assert not list((cache_dir() / "engines").glob("*.kernels"))


def test_an_engine_that_finds_too_little_memory_is_not_built_again(
    machine: Any, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: bytes) -> None:
        machine.trt.logger.log(machine.trt.ILogger.ERROR, "Error Code 2: OutOfMemory (Requested size was 4 bytes.)")

    TensorRtBackend(graph, SPEC).close()
    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", lambda *_, **__: pytest.fail("built again"))
    with monkeypatch.context() as patch:
        patch.setattr(machine.trt, "_engine", fails)
        with pytest.raises(EngineError, match=r"does not load .*OutOfMemory.*; end other programs"):
            TensorRtBackend(graph, SPEC)
    TensorRtBackend(graph, SPEC).close()


@pytest.mark.parametrize("bytes_kept", [None, 5000, 10])
def test_the_real_bindings_refuse_an_engine_without_a_gpu_in_their_own_words(bytes_kept: int | None) -> None:
    """TensorRT-RTX builds here, and loads only where there is a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    try:
        find_gpu()
    except BackendUnavailableError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    library = find_library("rtx")
    data = build_engine(lstm_graph(), SPEC, EngineOptions(), library, architecture="sm89").engine[:bytes_kept]
    prepared = SimpleNamespace(engine=SimpleNamespace(data=data), path=Path("KEY.engine"), kernels=None)
    with pytest.raises(
        StaleEngineError,
        match=rf"{library.label} on .* does not load KEY\.engine \(deserialize_cuda_engine: .*Error Code",
    ):
        LoadedEngine(prepared, SPEC, library, ADA)  # type: ignore[arg-type]


def test_without_leave_to_build_such_an_engine_stays_and_is_refused(machine: Any, graph: Path) -> None:
    TensorRtBackend(graph, SPEC).close()
    machine.trt.refuses = "engine"
    with pytest.raises(EngineMissingError, match="the engine plan file is not compatible"):
        TensorRtBackend(graph, SPEC, options=EngineOptions(build=False))
    machine.trt.refuses = ""
    TensorRtBackend(graph, SPEC, options=EngineOptions(build=False)).close()


def test_a_damaged_engine_never_reaches_tensorrt(
    machine: Any, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TensorRtBackend(graph, SPEC).close()
    engine = next((tmp_path / "cache" / "engines").glob("*.engine"))
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-7])
    assert loaded(machine, graph, monkeypatch) == [whole]


def test_an_engine_of_another_tensorrt_or_gpu_never_reaches_it(
    make_machine: Callable[..., Any], graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TensorRtBackend(graph, SPEC, options=EngineOptions()).close() if make_machine() else None
    machine = make_machine(integrated=True)
    with pytest.raises(EngineMissingError, match=r"expected an engine for TensorRT 10\.3\.0 on Orin"):
        TensorRtBackend(graph, SPEC, options=EngineOptions(build=False))
    builds: list[bytes] = []
    monkeypatch.setattr(
        "hybrid_edge.runtime.engines.build.build_engine",
        lambda onnx, *rest, **more: builds.append(onnx) or fake_build(onnx, *rest, **more),
    )
    assert len(loaded(machine, graph, monkeypatch)) == len(builds) == 1


def loaded(machine: Any, graph: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What TensorRT is given when the backend is opened."""
    seen: list[bytes] = []
    real = machine.trt._engine
    monkeypatch.setattr(machine.trt, "_engine", lambda data: seen.append(data) or real(data))
    TensorRtBackend(graph, SPEC).close()
    return seen
