"""What of the TensorRT backend needs no GPU: which one, loading, refusals; tests/gpu has the rest."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.gpu.engine_fixtures import ADA, ORIN, another_users, inputs, skip_on_a_gpu
from support.gpu.fake_gpu import Error
from support.gpu.fake_tensorrt import _Engine, _RuntimeCache
from support.models.bundles import make_bundle
from support.models.small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime.backends import open_backend
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend, engine, find_tensorrt
from hybrid_edge.runtime.backends.tensorrt.engine import LoadedEngine, StaleEngineError
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.build import build_engine
from hybrid_edge.runtime.engines.cache import EngineCache
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.gpu import Gpu
from hybrid_edge.runtime.engines.library import Messages, find_library, make_interface
from hybrid_edge.runtime.errors import BackendError, BackendUnavailableError, EngineError, EngineMissingError
from hybrid_edge.runtime.storage import cache_dir

Make = Callable[..., Any]


def has(monkeypatch: pytest.MonkeyPatch, *kinds: str, gpu: Gpu = ADA) -> None:
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


def test_a_backend_without_a_gpu_is_unavailable(graph: Path) -> None:
    skip_on_a_gpu()
    with pytest.raises(BackendUnavailableError):
        TensorRtBackend(graph, SPEC)


@pytest.mark.parametrize("integrated", [False, True])
def test_everything_is_given_back(make_machine: Make, integrated: bool) -> None:
    machine = make_machine(integrated=integrated)
    before = machine.cuda.free
    backend = machine.open()
    buffers = backend.buffers(3, 2)
    backend.collect(backend.submit(buffers[0], 2))
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
    ("refuses", "kind", "message"),
    [
        ("runtime", BackendUnavailableError, r"TensorRT 10\.3\.0 does not start here: CUDA init.* error: 35;"),
        ("engine", EngineError, r"not load .*\.engine \(deserialize_cuda_engine: the engine plan file is not com"),
        ("context", EngineError, "create_execution_context failed: it gave no reason; a smaller --profile"),
    ],
)
def test_an_unloadable_engine_leaves_nothing(machine: Any, refuses: str, kind: type[Exception], message: str) -> None:
    machine.trt.refuses = refuses
    with pytest.raises(kind, match=message):
        machine.open()
    assert machine.cuda.live == {}


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc", "cudaEventCreateWithFlags", "cudaMemsetAsync"])
def test_a_gpu_with_too_little_memory_says_so_and_leaves_nothing_behind(machine: Any, call: str) -> None:
    machine.cuda.fails[call] = Error.cudaErrorMemoryAllocation
    message = rf"CUDA's {call} failed \(cudaErrorMemoryAllocation, code 2: out of memory\); a smaller"
    with pytest.raises(BackendError, match=message):
        machine.open()
    assert machine.cuda.live == {}


def test_buffers_that_do_not_fit_are_refused_and_what_was_there_goes_on(machine: Any) -> None:
    with machine.open() as backend:
        before = machine.cuda.live
        machine.cuda.free = 100_000
        with pytest.raises(BackendError, match="cudaMalloc failed"):
            backend.buffers(8, 1)
        assert machine.cuda.live == before
        backend.run(inputs(2))


def test_an_engine_of_another_shape_is_refused(machine: Any) -> None:
    with pytest.raises(EngineError, match=r"expected an engine with the tensors .*logits \(-1, 3\)"):
        machine.open(spec=SPEC.replace(class_labels=("a", "b", "c")))
    assert machine.cuda.live == {}


def test_an_engine_that_tensorrt_takes_no_more_is_built_again_once(machine: Any) -> None:
    machine.open().close()
    machine.trt.refuses = "engine"
    with pytest.raises(EngineMissingError, match="the engine plan file is not compatible"):
        machine.open(build=False)
    machine.on_build = lambda: setattr(machine.trt, "refuses", "")
    with machine.open() as backend:
        backend.run(inputs(2))
    assert machine.builds == 2
    assert "the engine plan file is not compatible); building it again" in machine.said[0]
    assert machine.cuda.live == {}
    machine.open(build=False).close()


def test_such_an_engine_in_another_users_cache_is_built_and_used_from_memory(machine: Any) -> None:
    machine.open().close()
    machine.trt.refuses = "engine"
    machine.on_build = lambda: setattr(machine.trt, "refuses", "")
    with another_users(EngineCache().folder), machine.open() as backend:
        backend.run(inputs(2))
    assert "the engine plan file is not compatible); building it again" in machine.said[0]
    assert any("this run has its engine in memory, the next one builds it again" in line for line in machine.said)


def test_an_engine_short_of_memory_is_not_built_again(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: bytes) -> None:
        machine.trt.logger.log(machine.trt.ILogger.ERROR, "Error Code 2: OutOfMemory (Requested size was 4 bytes.)")

    machine.open().close()
    with monkeypatch.context() as patch:
        patch.setattr(machine.trt, "_engine", fails)
        with pytest.raises(EngineError, match=r"does not load .*OutOfMemory.*; end other programs"):
            machine.open()
    machine.open().close()
    assert machine.builds == 1


@pytest.mark.parametrize("fails", ["runtime", "builder"])
def test_where_tensorrt_does_not_start_auto_goes_on_to_the_next_engine(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(TensorRtBackend, "require", lambda: None)
    if fails == "builder":
        machine.on_build = lambda: make_interface(machine.library, machine.trt.Runtime, Messages())
    machine.trt.refuses = "runtime"
    bundle = Bundle.open(make_bundle(tmp_path / "bundle", variants=(("fp32", "tensorrt"), ("fp32", "cpu"))))
    found = open_backend(bundle)
    with found.backend:
        assert found.variant.target == "cpu"
    assert "does not start here: CUDA initialization failure with error: 35" in found.passed_over["tensorrt"]


def kept_kernels() -> Path:
    return next((cache_dir() / "engines").glob("*.kernels"))


def compiled_sizes() -> bytes | None:
    """What is kept of TensorRT-RTX's kernels; the stand-in's are the sizes of batches."""
    return EngineCache().read_note(kept_kernels().name)


@pytest.fixture
def rtx_machine(make_machine: Make) -> Any:
    """A card with TensorRT-RTX, whose cache has an engine that ran and what was compiled for it."""
    machine = make_machine(kind="rtx")
    with machine.open() as backend:
        backend.buffers(3, 1)
        assert compiled_sizes() == b"[1, 2, 3]"  # kept at once: who runs for a year may be killed in the end
        backend.run(inputs(2))
    assert machine.trt.compiled == [3, 1, 2]  # each size once, though each graph has a context of its own
    machine.trt.compiled.clear()
    return machine


def test_what_tensorrt_rtx_compiled_is_kept_beside_the_engine(rtx_machine: Any) -> None:
    assert kept_kernels().with_suffix(".engine").exists()
    with rtx_machine.open() as backend:
        backend.run(inputs(2))
    assert (rtx_machine.trt.compiled, rtx_machine.said) == ([], [])
    with rtx_machine.open() as backend:
        backend.run(inputs(5))
    assert compiled_sizes() == b"[1, 2, 3, 5]"


@pytest.mark.parametrize("damage", ["truncated", "of another driver"])
def test_kernels_that_are_damaged_or_do_not_fit_are_compiled_again(rtx_machine: Any, damage: str) -> None:
    kernels = kept_kernels()
    if damage == "truncated":
        kernels.write_bytes(kernels.read_bytes()[:-1])
    else:
        EngineCache().keep_note(kernels.name, b"{}")
    with rtx_machine.open() as backend:
        backend.run(inputs(2))
    assert (rtx_machine.trt.compiled, rtx_machine.said) == ([2], [])
    assert compiled_sizes() == b"[2]"


def test_kernels_that_can_not_be_kept_cost_a_line(rtx_machine: Any) -> None:
    with another_users(EngineCache().folder), rtx_machine.open() as backend:
        backend.run(inputs(5))
    assert len(rtx_machine.said) == 1
    assert "can't be kept here (Permission denied)" in rtx_machine.said[0]
    assert rtx_machine.said[0].endswith("; the next start compiles its kernels again")


def raising(*_: Any) -> None:
    raise RuntimeError("pybind11's")


@pytest.mark.parametrize(("call", "compiled"), [("serialize", []), ("deserialize", [2])])
def test_kernels_that_can_not_be_had_or_taken_cost_nothing_but_time(
    rtx_machine: Any, monkeypatch: pytest.MonkeyPatch, call: str, compiled: list[int]
) -> None:
    monkeypatch.setattr(_RuntimeCache, call, raising)
    with rtx_machine.open() as backend:
        backend.run(inputs(2))
    assert (rtx_machine.trt.compiled, rtx_machine.said) == (compiled, [])
    assert rtx_machine.cuda.live == {}


def test_contexts_that_can_not_be_configured_leave_nothing(make_machine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make_machine(kind="rtx")
    monkeypatch.setattr(_Engine, "create_runtime_config", raising)
    with pytest.raises(RuntimeError, match="pybind11's"):
        machine.open()
    assert machine.cuda.live == {}


def test_tensorrt_has_no_kernels_to_keep(machine: Any) -> None:
    with machine.open() as backend:
        backend.buffers(3, 2)
    assert not list((cache_dir() / "engines").glob("*.kernels"))


@pytest.mark.parametrize("bytes_kept", [None, 5000, 10])
def test_the_real_bindings_refuse_an_engine_without_a_gpu_in_their_own_words(bytes_kept: int | None) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    skip_on_a_gpu()
    library = find_library("rtx")
    data = build_engine(lstm_graph(), SPEC, EngineOptions(), library, architecture="sm89").engine[:bytes_kept]
    prepared: Any = SimpleNamespace(engine=SimpleNamespace(data=data), path=Path("KEY.engine"), kernels=None)
    message = rf"{library.label} on .* does not load KEY\.engine \(deserialize_cuda_engine: .*Error Code"
    with pytest.raises(StaleEngineError, match=message):
        LoadedEngine(prepared, SPEC, library, ADA)


def test_a_damaged_engine_never_reaches_tensorrt(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.open().close()
    path = next(EngineCache().folder.glob("*.engine"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert loaded(machine, monkeypatch) == [whole] == [path.read_bytes()]
    assert f"{path}: expected" in machine.said[0]
    assert "building it again" in machine.said[0]


def test_an_engine_of_another_tensorrt_or_gpu_never_loads(make_machine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make_machine().open().close()
    machine = make_machine(integrated=True)
    with pytest.raises(EngineMissingError, match=r"expected an engine for TensorRT 10\.3\.0 on Orin"):
        machine.open(build=False)
    assert len(loaded(machine, monkeypatch)) == machine.builds == 1


def loaded(machine: Any, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []
    real = machine.trt._engine
    monkeypatch.setattr(machine.trt, "_engine", lambda data: seen.append(data) or real(data))
    machine.open().close()
    return seen
