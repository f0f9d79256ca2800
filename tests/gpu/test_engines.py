"""TensorRT engines on a real GPU: built, run, and compared with ONNX Runtime on the CPU; run by ``make test-gpu``."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.gpu.real_engines import opened, tensors

from hybrid_edge.runtime.backends import open_backend
from hybrid_edge.runtime.backends.cuda import find_gpu
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeSimulated
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.cache import EngineCache, EngineKey
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.gpu import Gpu
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.errors import Int8EngineError
from hybrid_edge.runtime.golden import check_golden
from hybrid_edge.runtime.manifest import Variant
from hybrid_edge.runtime.preprocess import Preprocessor

pytestmark = pytest.mark.gpu

PRECISIONS = ("fp32", "fp16", "int8")


def test_an_engine_passes_its_golden_check(bundle: Bundle, variant: Variant) -> None:
    with opened(bundle, variant) as backend:
        found = check_golden(bundle, variant, backend, Preprocessor(bundle.spec))
    assert found.examples >= 8


@pytest.mark.parametrize("batch", [1, 3, 8, 11])
def test_an_engine_computes_what_onnx_runtime_does_on_the_cpu(bundle: Bundle, variant: Variant, batch: int) -> None:
    pytest.importorskip("onnxruntime")
    inputs = tensors(bundle, batch)
    with (
        opened(bundle, variant) as backend,
        OnnxRuntimeSimulated(bundle.verified(variant.file), bundle.spec) as reference,
    ):
        found, expected = backend.run(inputs), reference.run(inputs)
        again = backend.run(inputs)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=variant.golden_tolerance)
    np.testing.assert_array_equal(found.logits, again.logits)


def test_no_row_depends_on_its_neighbours(bundle: Bundle, variant: Variant) -> None:
    plain = tensors(bundle, 8)
    beside = {name: tensor.copy() for name, tensor in plain.items()}
    for tensor in beside.values():
        tensor[1:] = np.sign(tensor[1:])  # as far out as an image can be
    with opened(bundle, variant) as backend:
        alone, crowded = backend.run(plain), backend.run(beside)
    scale = float(np.abs(alone.logits[0]).max())
    assert float(np.abs(alone.logits[0] - crowded.logits[0]).max()) <= 1e-5 * scale


def test_batches_beyond_the_profile_are_split_or_filled_up(bundle: Bundle, variant: Variant) -> None:
    if variant.precision != "fp32":
        pytest.skip("once is enough")
    inputs = tensors(bundle, 7)
    with opened(bundle, variant) as usual, opened(bundle, variant, EngineOptions((2, 2, 3))) as narrow:
        expected, found = usual.run(inputs), narrow.run(inputs)
        single = narrow.run({name: tensor[:1] for name, tensor in inputs.items()})
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=variant.golden_tolerance)
    np.testing.assert_allclose(single.probabilities, expected.probabilities[:1], atol=variant.golden_tolerance)


def test_the_second_start_builds_nothing(bundle: Bundle, variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(bundle, variant):
        pass
    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", lambda *_, **__: pytest.fail("built again"))
    with opened(bundle, variant) as backend:
        backend.run(tensors(bundle, 1))


def test_the_times_of_kernels_are_kept(bundle: Bundle, variant: Variant, machine: tuple[Library, Gpu]) -> None:
    library, gpu = machine
    if not library.has_timing_cache:
        pytest.skip(f"{library.label} keeps none")
    with opened(bundle, variant):
        pass
    key = EngineKey.of(variant.file.sha256, library, gpu, EngineOptions())
    assert EngineCache().read_note(f"{key.timing_name}.timing")


def test_what_tensorrt_rtx_compiles_is_kept(
    bundle: Bundle, variant: Variant, machine: tuple[Library, Gpu], record_property: Callable[[str, object], None]
) -> None:
    """How long a start takes with and without it is in the report."""
    library, gpu = machine
    if library.kind != "rtx":
        pytest.skip(f"{library.label} compiles nothing where it runs")
    options = EngineOptions((1, 2, 2))
    name = f"{EngineKey.of(variant.file.sha256, library, gpu, options).name}.kernels"
    seconds = []
    for _ in range(3):  # builds and compiles; loads what was kept
        start = time.perf_counter()
        with opened(bundle, variant, options) as backend:
            backend.run(tensors(bundle, 2))
            seconds.append(round(time.perf_counter() - start, 2))
        assert EngineCache().read_note(name)
    record_property(f"{variant.name}, seconds to the first result", seconds)


def test_the_memory_is_given_back(bundle: Bundle, variant: Variant) -> None:
    with opened(bundle, variant):
        pass
    before = find_gpu().free_memory
    for _ in range(4):
        with opened(bundle, variant) as backend:
            backend.run(tensors(bundle, 8))
    assert find_gpu().free_memory > before - 64 * 2**20  # what other processes and the driver take meanwhile


def test_the_engine_inspector_counts_the_layers_in_int8(
    bundle: Bundle, variant: Variant, machine: tuple[Library, Gpu], record_property: Callable[[str, object], None]
) -> None:
    """What the engine really runs, after fusion; the counts stand in pytest's ``--junitxml`` report.

    Nothing is asked of them: kernels that TensorRT compiles itself need not say their types.
    """
    with opened(bundle, variant) as backend:
        report = inspected(backend, machine[0])
    layers = report["Layers"]
    narrow = [json.dumps(layer) for layer in layers if "int8" in json.dumps(layer).lower()]
    record_property(variant.name, f"{len(layers)} layers after fusion, {len(narrow)} with INT8")
    assert layers


def inspected(backend: TensorRtBackend, library: Library) -> dict[str, Any]:
    """What the engine's inspector reports; nothing of TensorRT's is left when this returns."""
    engine = backend._execution._engine
    inspector = engine._engine.create_engine_inspector()
    inspector.execution_context = engine.context()
    report: dict[str, Any] = json.loads(inspector.get_engine_information(library.module.LayerInformationFormat.JSON))
    return report


@pytest.mark.parametrize("precision", PRECISIONS)
def test_auto_takes_tensorrt_and_remembers_the_faster_form(
    bundle: Bundle, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = [item for item in bundle.manifest.variants if (item.target, item.precision) == ("tensorrt", precision)]
    if not offered:
        pytest.skip(f"the bundle has no {precision}")
    try:
        first = open_backend(bundle, precision=precision)
    except Int8EngineError as error:
        pytest.xfail(str(error))
    with first.backend:
        assert first.variant in offered
        assert "TensorRT" in first.description
    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", lambda *_, **__: pytest.fail("built again"))
    second = open_backend(bundle, precision=precision)
    with second.backend:
        assert second.variant == first.variant


def test_hybrid_infer_says_that_it_runs_tensorrt(bundle: Bundle) -> None:
    image = bundle.root / bundle.manifest.golden.images[0].file.path
    command = [sys.executable, "-m", "hybrid_edge.runtime.commands.infer", image, "--bundle", bundle.root, "--json"]
    command += ["--backend", "tensorrt", "--profile", "1,2,4", "--workspace", "256"]
    done = subprocess.run([os.fspath(item) for item in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backend: TensorRT" in done.stderr
    assert "golden check: " in done.stderr
    assert len(json.loads(done.stdout)["labels"]) >= 1
