from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.gpu.engine_fixtures import inputs
from support.models import small_graphs
from support.models.bundles import SPEC, make_graph, make_weights, reference_outputs, sample_image

from hybrid_edge.runtime.backends import onnxruntime as ours
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu, TensorSession
from hybrid_edge.runtime.engines.cache import EngineCache
from hybrid_edge.runtime.engines.kept_graph import GraphKey, keep_graph
from hybrid_edge.runtime.errors import BackendError, BundleError
from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.process import cpu_identity
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.runtime.storage import file_sha256


@pytest.mark.parametrize("branches", ["hybrid", "cnn", "rnn"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_graph_computes_what_numpy_computes(tmp_path: Path, branches: str, batch: int) -> None:
    spec = SPEC.replace(branches=branches)
    weights = make_weights(spec)
    path = tmp_path / "model.onnx"
    path.write_bytes(make_graph(spec, weights))
    tensors = Preprocessor(spec)([sample_image(seed) for seed in range(batch)])
    with OnnxRuntimeCpu(path, spec, threads=1) as backend:
        outputs = backend.run(tensors)
    expected = reference_outputs(spec, weights, tensors)
    np.testing.assert_allclose(outputs.logits, expected["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.probabilities, expected["probabilities"], atol=1e-5)


def test_the_same_row_comes_out_of_batches_of_every_size(model: Path) -> None:
    tensors = Preprocessor(SPEC)([sample_image(seed) for seed in range(8)])
    with OnnxRuntimeCpu(model, SPEC) as backend:
        whole = backend.run(tensors).logits
        for size in (1, 3):
            part = backend.run({name: tensor[:size] for name, tensor in tensors.items()}).logits
            assert np.abs(part - whole[:size]).max() <= 1e-5 * np.abs(whole).max()


def test_a_batch_of_as_many_rows_is_written_over_the_one_before(model: Path) -> None:
    tensors = Preprocessor(SPEC)([sample_image(seed) for seed in range(8)])
    with TensorSession(model, threads=1) as session:
        before: dict[str, Any] = {}
        for rows in (slice(3), slice(3, 6), slice(6, 8)):
            part = {name: values[rows] for name, values in tensors.items()}
            found = session.run_in_place(part)
            for name, expected in session.run(part).items():
                assert np.array_equal(found[name], expected), name
            assert all(found[name] is values for name, values in before.items()) == (rows != slice(6, 8))
            before = found


def test_the_number_of_threads_reaches_the_session(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = importlib.import_module("onnxruntime")

    def session(path: str, options: Any, **rest: Any) -> Any:
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return real.InferenceSession(path, options, **rest)

    library = SimpleNamespace(**{**vars(real), "InferenceSession": session})
    monkeypatch.setattr(ours, "import_onnxruntime", lambda: library)
    OnnxRuntimeCpu(model, SPEC, threads=3).close()
    OnnxRuntimeCpu(model, SPEC).close()  # a graph of a few kilobytes: one
    monkeypatch.setattr(ours, "SINGLE_THREAD_GRAPH_SIZE", 0)
    OnnxRuntimeCpu(model, SPEC).close()  # a large one: as many as ONNX Runtime takes
    assert seen == [(3, 1), (1, 1), (0, 0)]


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x08\x08" * 50])
def test_a_file_that_is_no_graph_is_refused_with_the_engines_reason(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"ONNX Runtime .* refused .*model\.onnx: .*export the bundle again"):
        OnnxRuntimeCpu(path, SPEC)


def test_an_opset_from_the_future_is_refused_with_the_engines_reason(tmp_path: Path, model: Path) -> None:
    graph = onnx.load(model)
    graph.opset_import[0].version = 9999
    onnx.save(graph, tmp_path / "future.onnx")
    with pytest.raises(BackendError, match="upgrade onnxruntime"):
        OnnxRuntimeCpu(tmp_path / "future.onnx", SPEC)


@pytest.mark.parametrize("changes", [{"image_size": 24}, {"timesteps": 12}, {"branches": "cnn"}, {"branches": "rnn"}])
def test_a_graph_made_for_another_spec_is_refused_with_both_sides(model: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"expected float32 inputs .* found"):
        OnnxRuntimeCpu(model, SPEC.replace(**changes))


def test_a_graph_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    other = SPEC.replace(class_labels=("a", "b"))
    path = tmp_path / "model.onnx"
    path.write_bytes(make_graph(other, make_weights(other)))
    with (
        OnnxRuntimeCpu(path, SPEC) as backend,
        pytest.raises(BackendError, match=r"shape \(1, 5\), float32, found \(1, 2\)"),
    ):
        backend.run(Preprocessor(SPEC)([sample_image()]))


def test_a_graph_with_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(make_graph(SPEC, make_weights(SPEC), batch=1))
    with pytest.raises(BundleError, match="expected float32 inputs"):
        OnnxRuntimeCpu(path, SPEC)


def test_a_failure_while_running_is_ours_and_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = ModelSpec(image_size=8, timesteps=8, backbone="digits", branches="rnn", class_labels=("a", "b"))
    nodes = [
        helper.make_node("Reshape", ["sequence", "shape"], ["logits"]),  # 64 values never fit 2
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("logits", "probabilities")]
    graph = helper.make_graph(
        nodes,
        "failing",
        [helper.make_tensor_value_info("sequence", TensorProto.FLOAT, ["N", 8, 8])],
        outputs,
        [helper.make_tensor("shape", TensorProto.INT64, [2], [1, 2])],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with OnnxRuntimeCpu(path, spec) as backend, pytest.raises(BackendError, match=r"on CPU failed: .*Reshape"):
        backend.run({"sequence": np.zeros((1, 8, 8), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_a_missing_onnxruntime_names_the_extra_to_install(model: Path) -> None:
    code = f"""
import sys
sys.modules["onnxruntime"] = None
from pathlib import Path
from hybrid_edge.runtime import BackendUnavailableError, ModelSpec
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
try:
    OnnxRuntimeCpu(Path({str(model)!r}), ModelSpec.from_json({SPEC.model_dump_json()!r}))
except BackendUnavailableError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'hybrid-edge[cpu]'" in done.stdout


@pytest.mark.parametrize("chosen", [{}, {"ORT_DISABLE_TELEMETRY": "true"}])
def test_onnxruntime_keeps_nothing_of_its_own_and_starts_no_uploader(
    model: Path, tmp_path: Path, chosen: dict[str, str]
) -> None:
    code = f"""
import os
from pathlib import Path
from hybrid_edge.runtime import ModelSpec
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
threads = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
with OnnxRuntimeCpu(Path({str(model)!r}), ModelSpec.from_json({SPEC.model_dump_json()!r}), threads=1):
    print(os.environ.get("ORT_DISABLE_TELEMETRY"), len(os.listdir("/proc/self/task")) - threads if threads else 0)
"""
    home = tmp_path / "home"
    home.mkdir()
    # nothing that stands for a test run, where ONNX Runtime is silent by itself
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment = {**kept, "HOME": str(home), **chosen}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [*(chosen.values() or ["1"]), "0"]
    assert list(home.rglob("*")) == []


def test_nodes_are_timed_and_no_file_is_left(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    backend = OnnxRuntimeCpu(graph, small_graphs.SPEC, threads=1)
    with backend:
        expected = backend.run(inputs(2)).logits
        times = backend.profile(inputs(2), runs=3)
        backend.profile(inputs(1), runs=1)
        np.testing.assert_array_equal(backend.run(inputs(2)).logits, expected)
        assert backend.copies(backend.buffers(1, 1)[0], 1) == {}  # nothing is copied on the CPU
    # a node in blocks of channels, as many as fit into a register of this CPU, has that behind its name
    assert {"pooled", "features"} <= {name.removesuffix("_nchwc") for name in times}
    assert sum(times.values()) > 0
    assert min(times.values()) >= 0
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(BackendError, match="was closed"):
        backend.profile(inputs(1))


def test_a_node_counts_with_its_median_and_the_runs_that_warm_up_do_not(tmp_path: Path) -> None:
    def node(name: str, duration: int) -> dict[str, Any]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration}

    end = {"cat": "Session", "name": "model_run", "dur": 1}
    runs = [[9000, 9000], [1000, 10], [3000, 10], [90000, 40]]
    events = [part for slow, fast in runs for part in (node("a", slow), node("b", fast), node("b", fast), end)]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps([{"cat": "Session", "name": "model_loading_uri"}, *events]))
    assert ours._read_trace(path, 3) == {"a": 3.0, "b": pytest.approx(0.02)}


class Keeping:
    """Opens one graph again and again, with a cache of its own; ``opened`` has each session's file and level."""

    def __init__(self, model: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.model, self.cache = model, folder / "engines"
        self.opened: list[Path] = []
        self.said: list[str] = []
        monkeypatch.setenv("HYBRID_EDGE_CACHE", str(folder))
        monkeypatch.setattr(ours, "LEAST_KEPT_SIZE", 0)
        real = ours._make_session

        def session(kind: Any, source: str, options: Any) -> Any:
            self.opened.append(Path(source))
            return real(kind, source, options)

        monkeypatch.setattr(ours, "_make_session", session)

    def open(self, **settings: Any) -> OnnxRuntimeCpu:
        self.opened.clear()
        self.said.clear()
        digest = file_sha256(self.model)
        return OnnxRuntimeCpu(self.model, SPEC, sha256=digest, on_refusal=self.said.append, **settings)

    @property
    def kept(self) -> Path:
        return next(self.cache.glob("*.onnx"))


@pytest.fixture
def keeping(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Keeping:
    return Keeping(model, monkeypatch, tmp_path / "cache")


def test_the_second_session_reads_the_graph_that_the_first_one_kept(keeping: Keeping) -> None:
    tensors = Preprocessor(SPEC)([sample_image(seed) for seed in range(3)])
    with OnnxRuntimeCpu(keeping.model, SPEC, threads=1) as plain:
        expected = plain.run(tensors).logits
    identities = []
    for _ in range(2):
        with keeping.open(threads=1) as backend:
            np.testing.assert_array_equal(backend.run(tensors).logits, expected)
            assert backend.profile(tensors)
            identities.append(backend.identity)
    assert set(keeping.opened) == {keeping.kept}
    assert identities[0] == identities[1]
    assert keeping.said == []


def test_another_onnxruntime_or_cpu_makes_its_own_graph(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping.open().close()
    for name, other in (
        ("onnxruntime_build", lambda: "another build"),
        ("cpu_identity", lambda: "another CPU"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(ours, name, other)
            keeping.open().close()
            assert keeping.opened[0] == keeping.model
    assert len(list(keeping.cache.glob("*.onnx"))) == 3


def test_a_shortage_that_passes_is_not_remembered(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeCpu, "_sample", short_of_memory)
        keeping.open().close()
    assert not list(keeping.cache.glob("*.onnx"))
    keeping.open().close()
    assert keeping.kept.exists()


def short_of_memory(*_: object) -> None:
    raise BackendError("bad allocation")


@pytest.mark.parametrize("suffix", [".onnx", ".weights"])
def test_an_altered_file_never_reaches_the_engine_and_is_made_again(keeping: Keeping, suffix: str) -> None:
    keeping.open().close()
    file = keeping.kept.with_suffix(suffix)
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    keeping.open().close()
    assert keeping.opened[0] == keeping.model
    assert keeping.kept not in keeping.opened
    assert "found others; making it again" in keeping.said[0]
    assert file.read_bytes() == whole
    keeping.open().close()
    assert keeping.opened == [keeping.kept]


def test_a_kept_graph_that_the_engine_refuses_costs_no_run(keeping: Keeping) -> None:
    key = GraphKey(file_sha256(keeping.model), ours.onnxruntime_build(), cpu_identity() or "", json.dumps([{}, []]))
    keep_graph(EngineCache(keeping.cache), key, 1, lambda path, _: path.write_bytes(b"no graph"))
    keeping.open().close()
    assert keeping.opened == [keeping.kept, keeping.model]
    assert "is not used" in keeping.said[0]
    keeping.open().close()
    assert keeping.said == []  # it was made again


def test_a_graph_that_computes_something_else_once_it_is_read_back_is_not_kept(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = iter(np.eye(4, dtype=np.float32))
    monkeypatch.setattr(OnnxRuntimeCpu, "_sample", lambda *_: next(samples))
    keeping.open().close()
    assert keeping.opened[-1] == keeping.model
    assert "expected the same logits as before, found others" in keeping.said[0]
    assert list(keeping.cache.glob("*.onnx")) == []
    keeping.open().close()
    assert (keeping.opened, keeping.said) == ([keeping.model], [])  # it is not tried at each start


def test_where_weights_beside_a_graph_are_not_read_back_they_are_kept_inside(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OnnxRuntimeCpu._write

    def write(self: OnnxRuntimeCpu, model: Path, path: Path, entries: dict[str, str]) -> Any:
        session = real(self, model, path, entries)
        if entries:
            raise ours._UnusableGraphError("ONNX Runtime 1.23 does not")
        return session

    monkeypatch.setattr(OnnxRuntimeCpu, "_write", write)
    keeping.open().close()
    assert keeping.kept.with_suffix(".weights").stat().st_size == 0
    keeping.open().close()
    assert (keeping.opened, keeping.said) == ([keeping.kept], [])


def test_a_cache_that_can_not_be_written_costs_no_run(keeping: Keeping) -> None:
    keeping.cache.parent.mkdir()
    keeping.cache.write_text("a file in its place")
    keeping.open().close()
    assert (keeping.opened, keeping.said) == ([keeping.model], [])  # on a read-only system it is so at each start


def test_a_graph_is_kept_neither_without_its_hash_nor_where_it_is_small(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    OnnxRuntimeCpu(keeping.model, SPEC).close()
    monkeypatch.setattr(ours, "LEAST_KEPT_SIZE", 2**22)
    keeping.open().close()
    assert not keeping.cache.exists()


def test_what_derives_from_the_backend_is_not_taken_for_it(model: Path) -> None:
    with ours.OnnxRuntimeSimulated(model, SPEC) as simulated, OnnxRuntimeCpu(model, SPEC) as plain:
        assert simulated.identity is None
        assert plain.identity is not None
