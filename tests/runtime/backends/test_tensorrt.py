"""What of the TensorRT backend needs no GPU; tests/gpu has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_fixtures import ADA
from fake_gpu import FakeCuda, FakeTensorRt, fake_build
from small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime.backends import cuda, tensorrt
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend, find_tensorrt
from hybrid_edge.runtime.engines import prepare
from hybrid_edge.runtime.engines.build import BuiltEngine
from hybrid_edge.runtime.engines.gpu import Gpu
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.engines.options import EngineOptions
from hybrid_edge.runtime.engines.progress import Reporter
from hybrid_edge.runtime.errors import BackendError, BackendUnavailableError, EngineError

ORIN = Gpu("Orin", (8, 7), integrated=True, total_memory=8 * 2**30, free_memory=3 * 2**30)


def has(monkeypatch: pytest.MonkeyPatch, *kinds: str, gpu: Gpu = ADA) -> None:
    """A machine with these libraries and this GPU."""
    monkeypatch.setattr(tensorrt, "installed", lambda kind: kind in kinds)
    monkeypatch.setattr(tensorrt, "find_library", lambda kind: kind)
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: gpu)
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
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: pytest.fail("asked for the GPU"))
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


@pytest.mark.parametrize(("batch", "expected"), [(1, [1]), (8, [8]), (9, [8, 1]), (20, [8, 8, 4])])
def test_batches_over_the_largest_are_split(batch: int, expected: list[int]) -> None:
    backend = object.__new__(TensorRtBackend)
    backend._options = tensorrt.EngineOptions()
    slices = list(backend._slices(batch))
    assert [item.stop - item.start for item in slices] == expected
    assert slices[0].start == 0
    assert slices[-1].stop == batch


class Machine:
    """A machine with a GPU and TensorRT, in the CPU's memory."""

    def __init__(self) -> None:
        self.cuda = FakeCuda()
        self.trt = FakeTensorRt(self.cuda)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    made = Machine()
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "_runtime", lambda: made.cuda)
    monkeypatch.setattr(tensorrt, "find_tensorrt", lambda: (Library(made.trt, "tensorrt", "10.3.0"), ADA))
    monkeypatch.setattr(prepare, "build_engine", fake_build)
    return made


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(lstm_graph())
    return path


def tensors(batch: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, (batch, *shape)).astype(np.float32) for name, shape in SPEC.inputs.items()}


@pytest.mark.parametrize("batch", [1, 3, 8, 11, 16])
@pytest.mark.parametrize("profile", [(1, 1, 8), (4, 4, 5)])
def test_every_batch_comes_out_as_the_graph_computes_it(
    machine: Machine, graph: Path, batch: int, profile: tuple[int, int, int]
) -> None:
    with (
        OnnxRuntimeCpu(graph, SPEC) as reference,
        TensorRtBackend(graph, SPEC, options=EngineOptions(profile)) as backend,
    ):
        for seed in (0, 1):  # what the first left in the buffers must not show in the second
            found, expected = backend.run(tensors(batch, seed)), reference.run(tensors(batch, seed))
            np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
        assert backend.device == "TensorRT 10.3.0 on NVIDIA GeForce RTX 4070"


def test_everything_is_given_back(machine: Machine, graph: Path) -> None:
    before = machine.cuda.free
    backend = TensorRtBackend(graph, SPEC)
    assert machine.cuda.free == before - 4 * 8 * (28 * 28 * 3 + 28 * 28 + 10 + 10)  # the largest batch, once
    backend.close()
    backend.close()
    assert machine.cuda.free == before
    assert not machine.cuda.streams
    with pytest.raises(BackendError, match="was closed"):
        backend.run(tensors(1))


@pytest.mark.parametrize(
    ("refuses", "message"),
    [
        ("engine", r"does not load .*\.engine: the engine plan file is not compatible"),
        ("context", "could not prepare the engine: it gave no reason; a smaller --profile"),
    ],
)
def test_an_engine_that_does_not_load_leaves_nothing_behind(
    machine: Machine, graph: Path, refuses: str, message: str
) -> None:
    machine.trt.refuses = refuses
    with pytest.raises(EngineError, match=message):
        TensorRtBackend(graph, SPEC)
    assert not machine.cuda.blocks
    assert not machine.cuda.streams


def test_a_gpu_with_too_little_memory_says_so_and_leaves_nothing_behind(machine: Machine, graph: Path) -> None:
    machine.cuda.free = 100_000
    with pytest.raises(BackendError, match=r"cudaMalloc failed \(cudaErrorMemoryAllocation.*a smaller --profile"):
        TensorRtBackend(graph, SPEC)
    assert not machine.cuda.blocks


def test_an_engine_of_another_shape_is_refused(machine: Machine, graph: Path) -> None:
    with pytest.raises(EngineError, match=r"expected an engine with the tensors .*logits \(-1, 3\)"):
        TensorRtBackend(graph, SPEC.replace(class_labels=("a", "b", "c")))


def test_an_engine_that_tensorrt_takes_no_more_is_built_again_once(
    machine: Machine, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TensorRtBackend(graph, SPEC).close()
    builds: list[bool] = []
    said: list[str] = []

    def build(*arguments: Any, **settings: Any) -> BuiltEngine:
        builds.append(True)
        machine.trt.refuses = ""
        return fake_build(*arguments, **settings)

    monkeypatch.setattr(prepare, "build_engine", build)
    machine.trt.refuses = "engine"
    with TensorRtBackend(graph, SPEC, reporter=Reporter(said.append)) as backend:
        backend.run(tensors(2))
    assert len(builds) == 1
    assert "the engine plan file is not compatible; building it again" in said[0]
    assert len(machine.cuda.streams) == 0


def test_a_damaged_engine_never_reaches_tensorrt(
    machine: Machine, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TensorRtBackend(graph, SPEC).close()
    engine = next((tmp_path / "cache" / "engines").glob("*.engine"))
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-7])
    seen: list[bytes] = []
    real = machine.trt._engine
    monkeypatch.setattr(machine.trt, "_engine", lambda logger, data: seen.append(data) or real(logger, data))
    TensorRtBackend(graph, SPEC).close()
    assert seen == [whole]
