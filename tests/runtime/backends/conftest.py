"""A machine with a GPU and TensorRT, in the CPU's memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gpu.engine_fixtures import ADA, ORIN
from support.gpu.fake_gpu import FakeCuda, Schedule
from support.gpu.fake_tensorrt import FakeTensorRt, fake_build
from support.models.small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime.backends import cuda
from hybrid_edge.runtime.backends.tensorrt import backend as module
from hybrid_edge.runtime.engines.library import Library, LibraryKind


class Machine:
    """What is in it, and what it said."""

    def __init__(self, schedule: Schedule, *, integrated: bool) -> None:
        self.cuda = FakeCuda(schedule=schedule)
        self.trt = FakeTensorRt(self.cuda)
        self.gpu = ORIN if integrated else ADA


@pytest.fixture
def make_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Machine]:
    """One of them, in the place of this one: of which schedule and TensorRT; its GPU may share the CPU's memory."""

    def make(schedule: Schedule = "lazy", *, integrated: bool = False, kind: LibraryKind = "tensorrt") -> Machine:
        made = Machine(schedule, integrated=integrated)
        monkeypatch.setattr(cuda, "runtime", lambda: made.cuda)
        library = Library(made.trt, kind, "10.3.0" if kind == "tensorrt" else "1.7.1")
        monkeypatch.setattr(module, "find_tensorrt", lambda: (library, made.gpu))
        return made

    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", fake_build)
    return make


@pytest.fixture
def machine(make_machine: Callable[..., Machine]) -> Machine:
    """A desktop card that does nothing before it must."""
    return make_machine()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A small convolution × LSTM."""
    path = tmp_path / "model.onnx"
    path.write_bytes(lstm_graph())
    return path


def tensors(batch: int, seed: int = 0) -> dict[str, Any]:
    """Inputs of that graph, others for each seed."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, (batch, *shape)).astype(np.float32) for name, shape in SPEC.inputs.items()}


@pytest.fixture(scope="session")
def inputs() -> Callable[..., dict[str, Any]]:
    """``tensors``."""
    return tensors
