"""Fixtures of the engines' tests: TensorRT-RTX, which builds without a GPU, and an environment to build in."""

from pathlib import Path

import pytest
from support.gpu.engine_fixtures import ADA, Builds

from hybrid_edge.runtime.engines.build import BuildEnvironment
from hybrid_edge.runtime.engines.cache import EngineCache
from hybrid_edge.runtime.engines.library import Library, find_library
from hybrid_edge.runtime.engines.progress import Reporter


@pytest.fixture(scope="session")
def rtx() -> Library:
    """TensorRT-RTX; tests that need it are skipped where it is not installed (it exists for x86-64)."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'hybrid-edge[rtx]'")
    return find_library("rtx")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    """``prepare_engine`` builds for an architecture instead of a GPU that is not there."""
    found = Builds()
    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", found)
    return found


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def environment(rtx: Library, builds: Builds, tmp_path: Path, said: list[str]) -> BuildEnvironment:
    return BuildEnvironment(rtx, ADA, EngineCache(tmp_path / "engines"), Reporter(said.append))
