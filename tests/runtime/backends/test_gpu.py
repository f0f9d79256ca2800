"""ONNX Runtime on a real NVIDIA GPU against the CPU; run by ``make test-gpu``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import SPEC, make_graph, make_weights, sample_image

from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from hybrid_edge.runtime.errors import BackendUnavailableError
from hybrid_edge.runtime.preprocess import Preprocessor

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("branches", ["hybrid", "cnn", "rnn"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_cuda_computes_what_the_cpu_computes(tmp_path: Path, branches: str, batch: int) -> None:
    spec = SPEC.replace(branches=branches)
    path = tmp_path / "model.onnx"
    path.write_bytes(make_graph(spec, make_weights(spec)))
    try:
        cuda = OnnxRuntimeCuda(path, spec)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    tensors = Preprocessor(spec)([sample_image(seed) for seed in range(batch)])
    with cuda, OnnxRuntimeCpu(path, spec) as cpu:
        found, expected = cuda.run(tensors), cpu.run(tensors)
    assert np.abs(found.logits - expected.logits).max() <= 1e-4 * np.abs(expected.logits).max()
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
