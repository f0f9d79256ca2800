from __future__ import annotations

import dataclasses
import hashlib
import resource
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx as onnx_model
import pytest
from support.gpu.engine_fixtures import Builds, another_users
from support.models.small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime.engines import gpu
from hybrid_edge.runtime.engines.build import BuildEnvironment, EngineBuild, PreparedEngine, prepare_engine
from hybrid_edge.runtime.engines.cache import EngineCache
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.errors import EngineError, EngineMissingError


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(lstm_graph())
    return path


@pytest.fixture
def prepare(onnx: Path, environment: BuildEnvironment) -> Callable[..., PreparedEngine]:
    def call(
        options: EngineOptions | None = None, *, graph: Path = onnx, at: BuildEnvironment = environment, stale: str = ""
    ) -> PreparedEngine:
        digest = hashlib.sha256(graph.read_bytes()).hexdigest()
        return prepare_engine(graph, digest, SPEC, options or EngineOptions(), at, stale=stale)

    return call


def test_an_engine_is_built_once_and_that_is_said_before_the_minutes_begin(
    prepare: Any, environment: BuildEnvironment, builds: Builds, said: list[str]
) -> None:
    first, second = prepare(), prepare()
    assert (first.built, second.built) == (True, False)
    assert second.engine.data == builds.made[0].engine == first.path.read_bytes()
    assert len(builds.made) == 1
    label = environment.library.label
    assert said == [f"building an engine with {label} for NVIDIA GeForce RTX 4070: minutes, once on this machine"]


def test_two_at_once_build_one_engine(prepare: Any, builds: Builds, said: list[str]) -> None:
    made: list[PreparedEngine] = []
    threads = [threading.Thread(target=lambda: made.append(prepare())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item.built for item in made) == [False, False, True]
    assert len(builds.made) == 1
    assert len({item.engine.data for item in made}) == 1
    assert "another process builds an engine: waiting for it" in said


def test_a_build_that_fails_leaves_the_cache_as_it_was_and_the_lock_free(
    prepare: Any, environment: BuildEnvironment, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    for _ in range(2):
        with pytest.raises(EngineError):
            prepare(graph=broken)
    assert [path.name for path in environment.cache.folder.iterdir()] == [".lock"]


@pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
def test_the_times_of_kernels_are_kept_for_the_next_build(
    prepare: Any, onnx: Path, environment: BuildEnvironment, builds: Builds, rtx: Library, tmp_path: Path
) -> None:
    """TensorRT's own way, walked with TensorRT-RTX, whose timing caches hold nothing."""
    environment = dataclasses.replace(environment, library=Library(rtx.module, "tensorrt", "10.3.0"))
    prepare(at=environment)
    other = tmp_path / "other.onnx"
    other.write_bytes(lstm_graph(seed=4))
    prepare(graph=other, at=environment)
    elsewhere = dataclasses.replace(environment.gpu, name="NVIDIA GeForce RTX 4090")
    prepare(at=dataclasses.replace(environment, gpu=elsewhere))
    assert builds.timing_caches == [None, builds.made[0].timing_cache, None]
    assert builds.made[0].timing_cache


def test_without_leave_to_build_only_what_is_there_is_given(
    prepare: Any, environment: BuildEnvironment, builds: Builds
) -> None:
    with pytest.raises(
        EngineMissingError,
        match=r"expected an engine for TensorRT-RTX .* on NVIDIA GeForce RTX 4070.*none that is whole",
    ):
        prepare(EngineOptions(build=False))
    assert not environment.cache.folder.exists()
    made = prepare()
    assert prepare(EngineOptions(build=False)).engine.data == made.engine.data
    made.path.write_bytes(b"damaged")
    with pytest.raises(EngineMissingError):
        prepare(EngineOptions(build=False))
    assert len(builds.made) == 1


def test_without_memory_nothing_is_begun(
    prepare: Any,
    environment: BuildEnvironment,
    builds: Builds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 1 kB\n")
    monkeypatch.setattr(gpu, "MEMINFO", tmp_path / "meminfo")
    with pytest.raises(EngineError, match="building an engine: expected at least 1 MiB of memory"):
        prepare()
    assert (said, builds.made) == ([], [])
    assert [path.name for path in environment.cache.folder.iterdir()] == [".lock"]


@pytest.fixture
def unwritable(environment: BuildEnvironment, tmp_path: Path) -> BuildEnvironment:
    (tmp_path / "file").touch()
    return dataclasses.replace(environment, cache=EngineCache(tmp_path / "file" / "engines"))


def test_an_engine_that_can_not_be_kept_is_used_from_memory_and_a_line_says_so(
    prepare: Any, unwritable: BuildEnvironment, builds: Builds, said: list[str]
) -> None:
    made = prepare(at=unwritable)
    assert made.built
    assert made.engine.data == builds.made[0].engine
    lock, line, begun = said
    assert "can't be locked" in lock
    assert line.startswith(
        f"{unwritable.cache.folder}: engines can't be kept here (Not a directory); HYBRID_EDGE_CACHE"
    )
    assert line.endswith("; this run has its engine in memory, the next one builds it again")
    assert begun.startswith("building an engine")


def test_a_disk_that_runs_full_meanwhile_costs_no_engine(
    prepare: Any, environment: BuildEnvironment, builds: Builds, said: list[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        made = prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert made.engine.data == builds.made[0].engine
    assert "engines can't be kept here (File too large)" in said[-1]
    assert [path.name for path in environment.cache.folder.iterdir()] == [".lock"]


def test_who_builds_now_and_runs_another_day_is_refused_before_the_build(
    prepare: Any, unwritable: BuildEnvironment, builds: Builds
) -> None:
    with pytest.raises(EngineError, match=r"can't be kept here .*HYBRID_EDGE_CACHE names another cache folder$"):
        prepare(at=dataclasses.replace(unwritable, must_keep=True))
    assert builds.made == []


def test_an_engine_that_tensorrt_takes_no_more_is_replaced_also_where_nothing_can_be_written(
    prepare: Any, environment: BuildEnvironment, builds: Builds
) -> None:
    stale = prepare()
    with another_users(environment.cache.folder):
        fresh = prepare(stale=stale.engine.record.sha256)
    assert fresh.built
    assert fresh.engine.data == builds.made[1].engine
    assert not prepare().built  # who does not know better takes the one that is there
    assert prepare(stale=stale.engine.record.sha256).built


def test_the_graph_is_not_kept_in_memory_while_its_engine_is_built(
    prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Jetson it would lie there beside the parser's copy, the builder's and the engine."""
    graph = onnx_model.load_from_string(lstm_graph())
    graph.doc_string = "." * 2**24
    path = tmp_path / "large.onnx"
    onnx_model.save(graph, path)
    held: list[int] = []
    real = EngineBuild.build

    def watched(job: Any, config: Any) -> bytes:
        held.append(tracemalloc.get_traced_memory()[0])
        return real(job, config)

    monkeypatch.setattr(EngineBuild, "build", watched)
    del graph
    tracemalloc.start()
    try:
        prepare(graph=path)
    finally:
        tracemalloc.stop()
    assert len(held) == 1
    assert held[0] < 2**22
