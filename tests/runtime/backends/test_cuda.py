from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from hybrid_edge.runtime.backends import cuda
from hybrid_edge.runtime.backends.cuda import Stream, find_gpu
from hybrid_edge.runtime.errors import BackendError, BackendUnavailableError

pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")


def skip_on_a_gpu() -> None:
    try:
        find_gpu()
    except BackendUnavailableError:
        return
    pytest.skip("this machine has a GPU")


def test_without_a_driver_that_is_what_is_said() -> None:
    skip_on_a_gpu()
    for call in (find_gpu, Stream):
        with pytest.raises(
            BackendUnavailableError, match=r"no NVIDIA GPU can be used here \(cudaError\w+: .*nvidia-smi"
        ):
            call()


def test_without_cuda_python_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    cuda._runtime.cache_clear()
    with pytest.raises(
        BackendUnavailableError, match=r"hybrid-edge\[tensorrt\].*hybrid-edge\[jetson\].*12 on JetPack 6"
    ):
        find_gpu()
    cuda._runtime.cache_clear()


def test_any_other_error_carries_cudas_own_name_and_text() -> None:
    rt = cuda._runtime()
    failing = SimpleNamespace(__name__="cudaMalloc")
    with pytest.raises(
        BackendError, match=r"cudaMalloc failed \(cudaErrorMemoryAllocation: out of memory\); a smaller"
    ):
        cuda._call(_answering(failing, (rt.cudaError_t.cudaErrorMemoryAllocation, None)))
    with pytest.raises(BackendError, match=r"cudaErrorIllegalAddress"):
        cuda._call(_answering(failing, (rt.cudaError_t.cudaErrorIllegalAddress, None)))


def test_answers_come_without_their_error_code() -> None:
    success = cuda._runtime().cudaError_t.cudaSuccess
    call = SimpleNamespace(__name__="cudaMemGetInfo")
    assert cuda._call(_answering(call, (success, 3, 4))) == (3, 4)
    assert cuda._call(_answering(call, (success, 3))) == 3
    assert cuda._call(_answering(call, (success,))) == ()


def _answering(named: SimpleNamespace, answer: tuple[object, ...]):  # type: ignore[no-untyped-def]
    def call() -> tuple[object, ...]:
        return answer

    call.__name__ = named.__name__
    return call
