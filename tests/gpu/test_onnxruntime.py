"""ONNX Runtime on a real NVIDIA GPU against the CPU; run by ``make test-gpu``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx", reason="the graphs are made here")

from support.models.bundles import SPEC, make_graph, make_weights, sample_image

from hybrid_edge.runtime.backends.cuda import find_gpu
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from hybrid_edge.runtime.errors import BackendUnavailableError
from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.spec import ModelSpec

pytestmark = pytest.mark.gpu


def on_cuda(path: Path, spec: ModelSpec) -> OnnxRuntimeCuda:
    """The graph on the GPU; where onnxruntime-gpu was installed for ``make test-gpu``, it has to be there."""
    try:
        return OnnxRuntimeCuda(path, spec)
    except BackendUnavailableError as error:
        needed = "HYBRID_EDGE_REQUIRE_GPU" in os.environ
        installed = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        (pytest.fail if needed and installed else pytest.skip)(str(error))


@pytest.mark.parametrize("branches", ["hybrid", "cnn", "rnn"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_cuda_computes_what_the_cpu_computes(tmp_path: Path, branches: str, batch: int) -> None:
    spec = SPEC.replace(branches=branches)
    path = tmp_path / "model.onnx"
    path.write_bytes(make_graph(spec, make_weights(spec)))
    cuda = on_cuda(path, spec)
    tensors = Preprocessor(spec)([sample_image(seed) for seed in range(batch)])
    with cuda, OnnxRuntimeCpu(path, spec) as cpu:
        found, expected = cuda.run(tensors), cpu.run(tensors)
    assert np.abs(found.logits - expected.logits).max() <= 1e-4 * np.abs(expected.logits).max()
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)


def test_a_thousand_batches_from_locked_buffers_take_no_more_memory_than_a_hundred(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(make_graph(SPEC, make_weights(SPEC)))
    cuda = on_cuda(path, SPEC)
    tensors = Preprocessor(SPEC)([sample_image(seed) for seed in range(8)])
    with cuda, OnnxRuntimeCpu(path, SPEC) as cpu:
        buffers = cuda.buffers(8, 2)
        for item in buffers:
            for name, tensor in tensors.items():
                item.tensors[name][:] = tensor
        expected = cpu.run(tensors).logits
        free = []
        for number in range(1100):
            rows = 8 if number % 100 == 99 else 1 + number % 8
            found = cuda.collect(cuda.submit(buffers[number % 2], rows)).logits
            assert np.abs(found - expected[:rows]).max() <= 1e-4 * np.abs(expected).max()
            if number in (99, 1099):
                free.append(find_gpu().free_memory)
    assert free[0] - free[1] <= 4 * 2**20
