"""ONNX Runtime's CUDA backend as far as it goes without a GPU: its session on the CPU, bound as it would be there."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from support.gpu.fake_gpu import Error, FakeCuda
from support.models.bundles import SPEC, sample_image

from hybrid_edge.runtime.backends import cuda, onnxruntime, onnxruntime_cuda
from hybrid_edge.runtime.backends.onnxruntime import CPU_PROVIDER, OnnxRuntimeCpu
from hybrid_edge.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from hybrid_edge.runtime.errors import BackendError, BackendUnavailableError
from hybrid_edge.runtime.preprocess import Preprocessor


class OnTheCpu(OnnxRuntimeCuda):
    """Where this machine's memory stands for the GPU's."""

    providers: ClassVar[list[Any]] = [CPU_PROVIDER]
    memory: ClassVar[str] = "cpu"

    def _require(self, library: Any) -> None:
        pass

    def _check_session(self, model: Path) -> None:
        session = self._session
        self._session = Claims(session)
        super()._check_session(model)


class Claims:
    def __init__(self, session: Any) -> None:
        self._session = session

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def tensors(count: int, first: int = 0) -> dict[str, Any]:
    return Preprocessor(SPEC)([sample_image(seed) for seed in range(first, first + count)])


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: made)
    return made


def test_bound_batches_come_out_as_unbound_ones(model: Path) -> None:
    with OnTheCpu(model, SPEC) as backend, OnnxRuntimeCpu(model, SPEC) as reference:
        for count, first in [(1, 0), (3, 1), (1, 4), (3, 5), (8, 8)]:
            inputs = tensors(count, first)
            np.testing.assert_array_equal(backend.run(inputs).logits, reference.run(inputs).logits)


def test_the_first_rows_of_a_buffer_are_a_batch(model: Path, locked: FakeCuda) -> None:
    with OnTheCpu(model, SPEC) as backend, OnnxRuntimeCpu(model, SPEC) as reference:
        assert backend.depth == 1
        buffers = backend.buffers(4, 2)
        for item, count in zip(buffers, (4, 2), strict=True):
            inputs = tensors(count, 3 * count)
            for name, tensor in inputs.items():
                item.tensors[name][:count] = tensor
            outputs = backend.collect(backend.submit(item, count))
            np.testing.assert_array_equal(outputs.logits, reference.run(inputs).logits)


def test_outputs_are_the_callers_own(model: Path) -> None:
    with OnTheCpu(model, SPEC) as backend:
        first = backend.run(tensors(2))
        kept = first.logits.copy()
        backend.run(tensors(2, first=7))
        np.testing.assert_array_equal(first.logits, kept)


def test_input_buffers_are_locked_and_given_back(model: Path, locked: FakeCuda) -> None:
    with OnTheCpu(model, SPEC) as backend:
        buffers = backend.buffers(4, 3)
        assert locked.live == {"host": 6}
        assert [item.slot for item in buffers] == [0, 1, 2]
        assert buffers[0].tensors["image"].ctypes.data in locked.host
    assert locked.live == {}


def test_memory_that_can_not_be_locked_is_an_error(model: Path, locked: FakeCuda) -> None:
    locked.fails["cudaHostAlloc"] = Error.cudaErrorMemoryAllocation
    with OnTheCpu(model, SPEC) as backend, pytest.raises(BackendError, match="cudaHostAlloc failed"):
        backend.buffers(4, 1)


def test_without_cuda_python_plain_memory_will_do(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise BackendUnavailableError("no cuda-python")

    monkeypatch.setattr(cuda, "runtime", missing)
    with OnTheCpu(model, SPEC) as backend:
        buffers = backend.buffers(2, 1)[0]
        assert buffers.tensors["image"].shape == (2, *SPEC.inputs["image"])
        backend.collect(backend.submit(buffers, 2))


def test_memory_is_kept_for_some_sizes_and_no_more(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "MAX_BOUND_SIZES", 2)
    made: list[int] = []
    real = onnxruntime_cuda._Binding
    monkeypatch.setattr(onnxruntime_cuda, "_Binding", lambda *arguments: made.append(arguments[-1]) or real(*arguments))
    with OnTheCpu(model, SPEC) as backend:
        for count in (1, 2, 1, 2, 3, 2, 1):
            backend.run(tensors(count))
        assert made == [1, 2, 3, 1]
        assert len(backend._bindings) == 2


def test_the_copy_of_the_inputs_alone_is_what_bench_times(model: Path) -> None:
    with OnTheCpu(model, SPEC) as backend:
        buffers = backend.buffers(2, 1)[0]
        for name, tensor in tensors(2, first=5).items():
            buffers.tensors[name][:] = tensor
        copies = backend.copies(buffers, 2)
        assert list(copies) == ["copy in"]
        copies["copy in"]()
        for name, value in backend._bindings[2]._inputs.items():
            np.testing.assert_array_equal(value.numpy(), buffers.tensors[name])


def test_a_failure_is_ours_with_onnxruntimes_words(model: Path) -> None:
    def fails(_: Any) -> None:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc")

    with OnTheCpu(model, SPEC) as backend:
        backend._session.run_with_iobinding = fails
        with pytest.raises(BackendError, match=r"on CUDA failed: CUDA failure 2: out of memory.*a smaller --batch"):
            backend.run(tensors(1))


def with_library(monkeypatch: pytest.MonkeyPatch, **replaced: Any) -> None:
    real = importlib.import_module("onnxruntime")
    for module in (onnxruntime, onnxruntime_cuda):
        monkeypatch.setattr(module, "import_onnxruntime", lambda: SimpleNamespace(**{**vars(real), **replaced}))


def test_cuda_is_refused_where_onnxruntime_has_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_library(monkeypatch, get_available_providers=lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailableError, match=r"built without CUDA.*hybrid-edge\[gpu\]"):
        OnnxRuntimeCuda(model, SPEC)


def test_cuda_is_refused_where_onnxruntime_quietly_takes_the_cpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module("onnxruntime")

    def session(path: str, options: Any, providers: list[Any], **rest: Any) -> Any:
        provider, settings = providers[0]
        assert provider == "CUDAExecutionProvider"
        assert settings == {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        return real.InferenceSession(path, options, providers=["CPUExecutionProvider"], **rest)

    with_library(
        monkeypatch,
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        InferenceSession=session,
        preload_dlls=lambda: None,
    )
    with pytest.raises(BackendUnavailableError, match=r"expected ONNX Runtime to run on CUDA.*took \['CPU.*nvidia-smi"):
        OnnxRuntimeCuda(model, SPEC)


def test_what_onnxruntime_prints_about_cuda_stays_off_stdout(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: Any, **rest: Any) -> None:
        raise RuntimeError("no GPU")

    with_library(
        monkeypatch,
        get_available_providers=lambda: ["CUDAExecutionProvider"],
        InferenceSession=stop,
        preload_dlls=lambda: sys.stdout.write("libcudnn.so.9 not found"),
    )
    with pytest.raises(BackendError, match="no GPU"):
        OnnxRuntimeCuda(model, SPEC)
    assert capsys.readouterr().out == ""
