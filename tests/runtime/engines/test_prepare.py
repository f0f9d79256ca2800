import dataclasses
import hashlib
import json
import resource
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx as onnx_model
import pytest
from support.gpu.engine_fixtures import Builds, another_users
from support.models.bundles import change_manifest, files_of, make_bundle, make_graph, make_weights, store
from support.models.small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines import gpu
from hybrid_edge.runtime.engines.ahead import build_rtx, parse_architectures
from hybrid_edge.runtime.engines.build import BuildEnvironment, EngineBuild, PreparedEngine, prepare_engine
from hybrid_edge.runtime.engines.cache import EngineCache
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.errors import ArtifactHashError, EngineError, EngineMissingError, UsageError


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


def test_a_failed_build_leaves_only_a_free_lock(prepare: Any, environment: BuildEnvironment, tmp_path: Path) -> None:
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


def test_without_leave_only_what_is_there_is_given(prepare: Any, environment: BuildEnvironment, builds: Builds) -> None:
    message = r"expected an engine for TensorRT-RTX .* on NVIDIA GeForce RTX 4070.*none that is whole"
    with pytest.raises(EngineMissingError, match=message):
        prepare(EngineOptions(build=False))
    assert not environment.cache.folder.exists()
    made = prepare()
    assert prepare(EngineOptions(build=False)).engine.data == made.engine.data
    made.path.write_bytes(b"damaged")
    with pytest.raises(EngineMissingError):
        prepare(EngineOptions(build=False))
    assert len(builds.made) == 1


def test_without_memory_nothing_is_begun(
    prepare: Any, environment: BuildEnvironment, builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 1 kB\n")
    monkeypatch.setattr(gpu, "MEMINFO", tmp_path / "meminfo")
    with pytest.raises(EngineError, match="building an engine: expected at least 1 MiB of memory"):
        prepare()
    assert builds.made == []
    assert files_of(environment.cache.folder) == {".lock"}


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
    assert f"{unwritable.cache.folder}: engines can't be kept here (Not a directory); HYBRID_EDGE_CACHE" in line
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


def test_who_only_builds_is_refused_beforehand(prepare: Any, unwritable: BuildEnvironment, builds: Builds) -> None:
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


def test_the_graph_is_dropped_before_the_build(prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


TENSORRT = "fp32-tensorrt"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "bundle", variants=(("fp32", "tensorrt"), ("fp32", "cpu"))))


def test_each_variant_is_built_for_each_architecture_and_labelled(bundle: Bundle, rtx: Library, tmp_path: Path) -> None:
    engines = build_rtx(bundle, ("sm86", "sm120"), tmp_path / "engines")
    assert [(item.variant, item.architecture) for item in engines] == [(TENSORRT, "sm86"), (TENSORRT, "sm120")]
    names = [f"{TENSORRT}-rtx-{architecture}" for architecture in ("sm86", "sm120")]
    assert files_of(tmp_path / "engines") == {f"{name}.{suffix}" for name in names for suffix in ("engine", "json")}
    assert engines[0].path.read_bytes()[1:4] == b"trt"
    assert engines[0].path.read_bytes() != engines[1].path.read_bytes()
    record = json.loads(engines[1].path.with_suffix(".json").read_text())
    assert record["kind"] == "rtx"
    assert "for sm120: desktop RTX cards, not for Jetson" in record["label"]
    assert record["version"] == rtx.version
    assert record["onnx_sha256"] == bundle.manifest.variants[0].file.sha256
    assert record["sha256"] == hashlib.sha256(engines[1].path.read_bytes()).hexdigest()
    assert record["size"] == engines[1].size == engines[1].path.stat().st_size


def test_engines_of_graphs_that_are_gone_are_removed(bundle: Bundle, rtx: Library, tmp_path: Path) -> None:
    out = tmp_path / "engines"
    build_rtx(bundle, ("sm86", "sm89"), out)
    (out / "mine.json").write_text("{}")
    other = store(bundle.root, "artifacts", "onnx", make_graph(bundle.spec, make_weights(bundle.spec, seed=8)))
    variants = tuple(item.model_copy(update={"file": other}) for item in bundle.manifest.variants)
    build_rtx(change_manifest(bundle.root, variants=variants), ("sm89",), out)
    assert files_of(out) == {"fp32-tensorrt-rtx-sm89.engine", "fp32-tensorrt-rtx-sm89.json", "mine.json"}


def test_a_damaged_graph_is_refused_before_tensorrt_parses_it(bundle: Bundle, rtx: Library, tmp_path: Path) -> None:
    path = bundle.root / bundle.manifest.variants[0].file.path
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(ArtifactHashError):
        build_rtx(bundle, ("sm89",), tmp_path / "engines")


def test_a_folder_that_can_not_be_written_is_a_typed_error(bundle: Bundle, rtx: Library, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="engines can't be written here"):
        build_rtx(bundle, ("sm89",), tmp_path / "file" / "engines")


def test_architectures_are_read_as_they_are_written() -> None:
    assert parse_architectures("sm89") == ("sm89",)
    assert parse_architectures("SM80, sm86,sm89,sm120,sm80") == ("sm80", "sm86", "sm89", "sm120")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sm87", r"found 'sm87': that is a Jetson Orin, on which TensorRT-RTX does not run"),
        ("sm89,sm75", r"found 'sm75': TensorRT-RTX has no FP32 matrix product for it \(Turing\)"),
        ("ada", r"expected RTX architectures among sm80, sm86, sm89, sm120, found 'ada'"),
        ("", "found ''"),
    ],
)
def test_an_architecture_that_is_none_is_wrong_usage_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_architectures(text)
