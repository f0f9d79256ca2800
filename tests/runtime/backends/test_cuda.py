import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.gpu.engine_fixtures import skip_on_a_gpu
from support.gpu.fake_gpu import Error, FakeCuda

from hybrid_edge.runtime.backends import cuda
from hybrid_edge.runtime.backends.cuda import (
    CudaEvent,
    CudaStream,
    DeviceMemory,
    HostMemory,
    capture,
    find_gpu,
    free_memory,
)
from hybrid_edge.runtime.errors import BackendError, BackendUnavailableError


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: made)
    monkeypatch.setattr(cuda, "BOARD_MODEL_FILE", tmp_path / "model")
    return made


def test_a_driver_that_cuda_python_12_6_can_not_load_is_what_is_said(fake: FakeCuda) -> None:
    """It has no CUDA runtime, and so no error code for that."""

    def cudaGetDeviceCount() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    fake.cudaGetDeviceCount = cudaGetDeviceCount  # type: ignore[method-assign]
    with pytest.raises(
        BackendUnavailableError, match=r"no NVIDIA GPU can be used here \(Failed to dlopen libcuda.so.1, from cudaGetD"
    ):
        find_gpu()


def real(name: str, *arguments: Any) -> Any:
    """A call of the real bindings: ``cudaStream_t`` stands for one of those, a dotted name for that constant."""

    def argument(rt: Any, item: Any) -> Any:
        for part in item.split(".") if isinstance(item, str) else ():
            rt = getattr(rt, part)
        return item if not isinstance(item, str) else rt(0) if isinstance(rt, type) else rt

    return name, lambda: cuda.call(name, *(argument(cuda.runtime(), item) for item in arguments))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("cudaGetDeviceCount", find_gpu),
        ("cudaStreamCreateWithFlags", CudaStream),
        ("cudaEventCreateWithFlags", CudaEvent),
        ("cudaMalloc", lambda: DeviceMemory(1000)),
        ("cudaHostAlloc", lambda: HostMemory((3, 4))),
        ("cudaHostAlloc", lambda: HostMemory((3, 4), mapped=True)),
        real("cudaMemcpyAsync", 4096, 8192, 16, "cudaMemcpyKind.cudaMemcpyHostToDevice", "cudaStream_t"),
        real("cudaMemsetAsync", 4096, 0, 16, "cudaStream_t"),
        real("cudaHostGetDevicePointer", 4096, 0),
        real("cudaFree", 4096),
        real("cudaFreeHost", 4096),
        real("cudaStreamWaitEvent", "cudaStream_t", "cudaEvent_t", 0),
        real("cudaStreamSynchronize", "cudaStream_t"),
        real("cudaStreamDestroy", "cudaStream_t"),
        real("cudaEventRecord", "cudaEvent_t", "cudaStream_t"),
        real("cudaEventSynchronize", "cudaEvent_t"),
        real("cudaEventDestroy", "cudaEvent_t"),
        real("cudaStreamBeginCapture", "cudaStream_t", "cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal"),
        real("cudaStreamEndCapture", "cudaStream_t"),
        real("cudaGraphInstantiate", "cudaGraph_t", 0),
        real("cudaGraphLaunch", "cudaGraphExec_t", "cudaStream_t"),
        real("cudaGraphDestroy", "cudaGraph_t"),
        real("cudaGraphExecDestroy", "cudaGraphExec_t"),
    ],
)
def test_the_real_bindings_take_what_the_code_gives_and_answer_that_there_is_no_driver(name: str, call: Any) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    skip_on_a_gpu()
    # cuda-python 12.6 has no CUDA runtime, and so no error code for that: Function "cuInit" not found
    reason = r"(cudaError\w+, code \d+: |Function \"cuInit\")"
    with pytest.raises(BackendUnavailableError, match=rf"no NVIDIA GPU can be used here \({reason}.* from {name}\)"):
        call()


def test_the_address_behind_a_real_stream_is_found_in_an_older_cuda_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rt = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    assert cuda.handle(rt.cudaStream_t(4711)) == 4711
    monkeypatch.setitem(sys.modules, "cuda.bindings.utils", None)
    assert cuda.handle(rt.cudaStream_t(4711)) == 4711


def test_without_cuda_python_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    cuda.runtime.cache_clear()
    with pytest.raises(
        BackendUnavailableError, match=r"hybrid-edge\[tensorrt\].*hybrid-edge\[tensorrt-cu12\].*hybrid-edge\[jetson\]"
    ):
        find_gpu()
    cuda.runtime.cache_clear()


def test_any_other_error_carries_the_call_and_cudas_own_name_number_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    rt = answering(monkeypatch, lambda rt: (rt.cudaError_t.cudaErrorMemoryAllocation, None))
    # cuda-python 12.6 asks the driver for the text
    text = r"cudaMalloc failed \(cudaErrorMemoryAllocation, code 2(: out of memory)?\); a smaller --batch"
    with pytest.raises(BackendError, match=text):
        cuda.call("cudaMalloc", 1)
    rt.cudaMalloc = lambda _: (rt.cudaError_t.cudaErrorIllegalAddress, None)
    with pytest.raises(
        BackendError, match=r"cudaMalloc failed \(cudaErrorIllegalAddress, code 700(: an illegal memory|\))"
    ):
        cuda.call("cudaMalloc", 1)


@pytest.mark.parametrize(("values", "answer"), [((3, 4), (3, 4)), ((3,), 3), ((), ())])
def test_answers_come_without_their_error_code(monkeypatch: pytest.MonkeyPatch, values: Any, answer: Any) -> None:
    answering(monkeypatch, lambda rt: (rt.cudaError_t.cudaSuccess, *values))
    assert cuda.call("cudaMalloc", 1) == answer


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> SimpleNamespace:
    rt = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    replaced = SimpleNamespace(**{**vars(rt), "cudaMalloc": lambda _: answer(rt)})
    monkeypatch.setattr(cuda, "runtime", lambda: replaced)
    return replaced


def test_a_gpu_is_described(fake: FakeCuda) -> None:
    found = find_gpu()
    assert (found.name, found.compute_capability, found.multiprocessors) == ("Orin", (8, 7), 16)
    assert found.integrated
    assert (found.free_memory, found.total_memory) == (2**30, 2**31)


def test_boards_whose_gpus_have_one_name_are_told_apart(fake: FakeCuda) -> None:
    """Orin NX and Orin Nano: the same chip and multiprocessors at other clocks."""
    cuda.BOARD_MODEL_FILE.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    assert find_gpu().name == "Orin (NVIDIA Jetson Orin Nano Developer Kit)"
    fake.properties = SimpleNamespace(**{**vars(fake.properties), "integrated": 0})
    assert find_gpu().name == "Orin"  # a card in a board is a card
    cuda.BOARD_MODEL_FILE.write_bytes(b"\0")
    assert find_gpu().name == "Orin"


def test_free_memory_is_the_gpus(fake: FakeCuda) -> None:
    assert free_memory() == 2**30
    with DeviceMemory(2**20):
        assert free_memory() == 2**30 - 2**20


def test_a_shared_memory_that_can_not_be_mapped_is_copied(fake: FakeCuda) -> None:
    fake.properties = SimpleNamespace(**{**vars(fake.properties), "canMapHostMemory": 0})
    assert not find_gpu().integrated


def test_without_a_visible_gpu_the_variable_is_named(fake: FakeCuda) -> None:
    fake.devices = 0
    with pytest.raises(BackendUnavailableError, match="CUDA_VISIBLE_DEVICES"):
        find_gpu()


@pytest.mark.parametrize("mapped", [False, True])
def test_locked_memory_is_a_zeroed_array(fake: FakeCuda, mapped: bool) -> None:
    with HostMemory((2, 3, 4), mapped=mapped) as memory:
        assert memory.array.shape == (2, 3, 4)
        assert memory.array.dtype == np.float32
        assert memory.array.flags.c_contiguous
        assert not memory.array.any()
        if mapped:
            assert fake.resolve(memory.address, memory.array.nbytes) == memory.array.ctypes.data
    assert fake.live == {}
    memory.close()
    with pytest.raises(BackendError, match="this HostMemory was given back to CUDA"):
        _ = memory.address


def test_what_raises_during_a_capture_ends_it_and_comes_through(fake: FakeCuda) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    with CudaStream() as stream:
        with pytest.raises(ZeroDivisionError):
            capture(stream, fails)
        with pytest.raises(BackendError, match="cudaStreamSynchronize failed"):
            capture(stream, stream.synchronize)
        assert fake.streams[stream.item].captured is None
        assert fake.last_error == Error.cudaSuccess
        stream.synchronize()
    assert fake.live == {}
