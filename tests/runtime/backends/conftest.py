"""A machine with a GPU and TensorRT, in the CPU's memory, and graphs to run there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gpu.engine_fixtures import ADA, ORIN
from support.gpu.fake_gpu import FakeCuda, Schedule
from support.gpu.fake_tensorrt import FakeTensorRt, fake_build
from support.models import bundles
from support.models.small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime.backends import cuda
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend
from hybrid_edge.runtime.backends.tensorrt import backend as module
from hybrid_edge.runtime.engines.build import BuiltEngine
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import Library, LibraryKind
from hybrid_edge.runtime.engines.progress import Reporter
from hybrid_edge.runtime.frame import Outputs


class Machine:
    def __init__(self, graph: Path, schedule: Schedule, kind: LibraryKind, *, integrated: bool) -> None:
        self.cuda = FakeCuda(schedule=schedule)
        self.trt = FakeTensorRt(self.cuda)
        self.gpu = ORIN if integrated else ADA
        self.library = Library(self.trt, kind, "10.3.0" if kind == "tensorrt" else "1.7.1")
        self.said: list[str] = []
        self.builds = 0
        self.on_build: Callable[[], object] = lambda: None
        self._graph = graph
        self._reference = OnnxRuntimeCpu(graph, SPEC, threads=1)

    def open(
        self, profile: tuple[int, int, int] = (1, 1, 8), *, build: bool = True, **settings: Any
    ) -> TensorRtBackend:
        """A backend; ``said`` has what it says from its opening on."""
        self.said = []
        spec = settings.pop("spec", SPEC)
        reporter, options = Reporter(self.said.append), EngineOptions(profile, build=build)
        return TensorRtBackend(self._graph, spec, options=options, reporter=reporter, **settings)

    def check(self, found: Outputs, batch: dict[str, Any]) -> None:
        """Whether that is what the graph gives for a batch."""
        expected = self._reference.run(batch)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


@pytest.fixture
def make_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path) -> Callable[..., Machine]:
    """One of them, in the place of this one: of which schedule and TensorRT; its GPU may share the CPU's memory."""

    def make(schedule: Schedule = "lazy", *, integrated: bool = False, kind: LibraryKind = "tensorrt") -> Machine:
        made = Machine(graph, schedule, kind, integrated=integrated)

        def build(*arguments: Any, **settings: Any) -> BuiltEngine:
            made.builds += 1
            made.on_build()
            return fake_build(*arguments, **settings)

        monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", build)
        monkeypatch.setattr(cuda, "runtime", lambda: made.cuda)
        monkeypatch.setattr(module, "find_tensorrt", lambda: (made.library, made.gpu))
        return made

    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    return make


@pytest.fixture
def machine(make_machine: Callable[..., Machine]) -> Machine:
    """A desktop card that does nothing before it must."""
    return make_machine()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(lstm_graph())
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(bundles.make_graph(bundles.SPEC, bundles.make_weights(bundles.SPEC)))
    return path
