"""How long each node takes, and the copies alone: what hybrid-bench asks of a backend."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gpu import fake_tensorrt
from support.gpu.fake_tensorrt import FakeTensorRt
from support.models.small_graphs import SPEC

from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu, _read_trace
from hybrid_edge.runtime.backends.onnxruntime_cuda import _Binding
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend
from hybrid_edge.runtime.backends.tensorrt.engine import LayerTimes, make_profiler
from hybrid_edge.runtime.engines.library import find_library
from hybrid_edge.runtime.errors import BackendError


def test_onnx_runtime_times_its_nodes_and_leaves_no_file(
    graph: Path, inputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with OnnxRuntimeCpu(graph, SPEC, threads=1) as backend:
        expected = backend.run(inputs(2)).logits
        times = backend.profile(inputs(2), runs=3)
        backend.profile(inputs(1), runs=1)
        np.testing.assert_array_equal(backend.run(inputs(2)).logits, expected)
    # a node in blocks of channels, as many as fit into a register of this CPU, has that behind its name
    assert {"pooled", "features"} <= {name.removesuffix("_nchwc") for name in times}
    assert sum(times.values()) > 0
    assert min(times.values()) >= 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_closed_backend_is_not_profiled(graph: Path, inputs: Any) -> None:
    backend = OnnxRuntimeCpu(graph, SPEC)
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.profile(inputs(1))


def test_a_node_counts_with_its_median_and_the_runs_that_warm_up_do_not(tmp_path: Path) -> None:
    def node(name: str, duration: int) -> str:
        return f'{{"cat": "Node", "name": "{name}_kernel_time", "dur": {duration}}}'

    loading = '{"cat": "Session", "name": "model_loading_uri"}'
    end = '{"cat": "Session", "name": "model_run", "dur": 1}'
    runs = [[9000, 9000], [1000, 10], [3000, 10], [90000, 40]]
    events = [part for slow, fast in runs for part in (node("a", slow), node("b", fast), node("b", fast), end)]
    path = tmp_path / "trace.json"
    path.write_text(f"[{', '.join([loading, *events])}]")
    assert _read_trace(path, 3) == {"a": 3.0, "b": pytest.approx(0.02)}


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's profiler: each execution of a context that has one reports three layers."""
    monkeypatch.setattr(FakeTensorRt, "IProfiler", type("IProfiler", (), {}), raising=False)
    execute = fake_tensorrt._Context.execute_async_v3

    def execute_and_report(context: Any, handle: int) -> bool:
        done = execute(context, handle)
        profiler = getattr(context, "profiler", None)
        for layer, ms in (("cnn/a", 1.0), ("rnn/b", 2.0), ("rnn/b", 0.5)) if profiler else ():
            profiler.report_layer_time(layer, ms)
        return done

    monkeypatch.setattr(fake_tensorrt._Context, "execute_async_v3", execute_and_report)


@pytest.mark.usefixtures("reported")
def test_tensorrt_reports_its_layers_in_a_context_of_their_own(machine: Any, graph: Path, inputs: Any) -> None:
    with TensorRtBackend(graph, SPEC) as backend:
        expected = backend.run(inputs(2)).logits
        contexts = machine.trt.contexts
        assert backend.profile(inputs(2), runs=4) == {"cnn/a": 1.0, "rnn/b": 2.5}
        assert backend.profile(inputs(11), runs=2)["cnn/a"] == 2.0  # over the profile's 8: two parts
        assert machine.trt.contexts == contexts + 2
        np.testing.assert_array_equal(backend.run(inputs(2)).logits, expected)
    assert machine.cuda.live == {}


def test_the_real_tensorrts_profiler_takes_our_class() -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    times: LayerTimes = defaultdict(float)
    profiler = make_profiler(find_library("rtx"), times)
    profiler.report_layer_time("cnn/conv", 0.5)
    profiler.report_layer_time("cnn/conv", 0.25)
    assert dict(times) == {"cnn/conv": 0.75}
    assert isinstance(profiler, find_library("rtx").module.IProfiler)


def test_the_copies_alone_move_what_a_batch_moves(machine: Any, graph: Path) -> None:
    with TensorRtBackend(graph, SPEC) as backend:
        buffers = backend.buffers(3, 1)[0]
        copies = backend.copies(buffers, 2)
        machine.cuda.copies.clear()
        copies["copy in"]()
        assert [way for way, _ in machine.cuda.copies] == ["up"] * len(SPEC.inputs)
        machine.cuda.copies.clear()
        copies["copy out"]()
        assert [way for way, _ in machine.cuda.copies] == ["down"] * 2
        assert machine.trt.executions > 0


def test_where_nothing_is_copied_there_is_nothing_to_time(make_machine: Callable[..., Any], graph: Path) -> None:
    make_machine(integrated=True)
    with TensorRtBackend(graph, SPEC) as backend:
        assert backend.copies(backend.buffers(1, 1)[0], 1) == {}
    with OnnxRuntimeCpu(graph, SPEC) as plain:
        assert plain.copies(plain.buffers(1, 1)[0], 1) == {}


def test_a_bound_sessions_inputs_are_copied_alone(graph: Path, inputs: Any) -> None:
    library = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    session = library.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    bound = _Binding(session, SPEC, "cpu", 2)
    bound.run(inputs(2))
    bound.upload(inputs(2, seed=5))
    for name, value in bound._inputs.items():
        np.testing.assert_array_equal(value.numpy(), inputs(2, seed=5)[name])
