from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path

import pytest
from engine_fixtures import Builds
from small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime.engines import headroom
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.engines.options import EngineOptions
from hybrid_edge.runtime.engines.prepare import Place, Prepared, prepare_engine
from hybrid_edge.runtime.engines.progress import Reporter
from hybrid_edge.runtime.errors import EngineError, EngineMissingError


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(lstm_graph())
    return path


def prepare(onnx: Path, place: Place, options: EngineOptions | None = None) -> Prepared:
    digest = hashlib.sha256(onnx.read_bytes()).hexdigest()
    return prepare_engine(onnx, digest, SPEC, options or EngineOptions(), place)


def test_an_engine_is_built_once(onnx: Path, place: Place, builds: Builds) -> None:
    first, second = prepare(onnx, place), prepare(onnx, place)
    assert (first.built, second.built) == (True, False)
    assert second.engine.data == builds.made[0].engine == first.path.read_bytes()
    assert len(builds.made) == 1


def test_other_options_make_another_engine(onnx: Path, place: Place, builds: Builds) -> None:
    prepare(onnx, place)
    assert prepare(onnx, place, EngineOptions((1, 2, 4))).built
    assert prepare(onnx, place, EngineOptions(workspace=2**28)).built
    assert not prepare(onnx, place).built


@pytest.mark.parametrize("damage", ["truncate", "alter"])
def test_a_damaged_engine_is_never_handed_out_but_built_again(
    onnx: Path, place: Place, builds: Builds, damage: str
) -> None:
    said: list[str] = []
    place = dataclasses.replace(place, reporter=Reporter(said.append))
    path = prepare(onnx, place).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if damage == "truncate" else whole[:5000] + b"\0" * 64 + whole[5064:])
    again = prepare(onnx, place)
    assert again.built
    assert again.engine.data == builds.made[1].engine == path.read_bytes()
    assert any(f"{path}: expected" in line and "building it again" in line for line in said)


def test_two_at_once_build_one_engine(onnx: Path, place: Place, builds: Builds) -> None:
    said: list[str] = []
    made: list[Prepared] = []
    place = dataclasses.replace(place, reporter=Reporter(said.append))
    threads = [threading.Thread(target=lambda: made.append(prepare(onnx, place))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item.built for item in made) == [False, False, True]
    assert len(builds.made) == 1
    assert len({item.engine.data for item in made}) == 1
    assert "another process builds an engine: waiting for it" in said


def test_a_build_that_fails_leaves_the_cache_as_it_was_and_the_lock_free(place: Place, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    for _ in range(2):
        with pytest.raises(EngineError):
            prepare(broken, place)
    assert [path.name for path in place.cache.folder.iterdir()] == [".lock"]


@pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
def test_the_times_of_kernels_are_kept_for_the_next_build(
    onnx: Path, place: Place, builds: Builds, rtx: Library, tmp_path: Path
) -> None:
    """TensorRT's own way, walked with TensorRT-RTX, whose timing caches hold nothing."""
    place = dataclasses.replace(place, library=Library(rtx.module, "tensorrt", "10.3.0"))
    prepare(onnx, place)
    other = tmp_path / "other.onnx"
    other.write_bytes(lstm_graph(seed=4))
    prepare(other, place)
    elsewhere = dataclasses.replace(place.gpu, name="NVIDIA GeForce RTX 4090")
    prepare(onnx, dataclasses.replace(place, gpu=elsewhere))
    assert builds.timing_caches == [None, builds.made[0].timing_cache, None]
    assert builds.made[0].timing_cache


def test_what_is_built_where_is_said_before_the_minutes_begin(onnx: Path, place: Place) -> None:
    said: list[str] = []
    prepare(onnx, dataclasses.replace(place, reporter=Reporter(said.append)))
    assert said == [
        f"building an engine with {place.library.label} for NVIDIA GeForce RTX 4070: minutes, once on this machine"
    ]


def test_without_leave_to_build_only_what_is_there_is_given(onnx: Path, place: Place, builds: Builds) -> None:
    with pytest.raises(
        EngineMissingError,
        match=r"expected an engine for TensorRT-RTX .* on NVIDIA GeForce RTX 4070.*none that is whole",
    ):
        prepare(onnx, place, EngineOptions(build=False))
    assert not place.cache.folder.exists()
    made = prepare(onnx, place)
    assert prepare(onnx, place, EngineOptions(build=False)).engine.data == made.engine.data
    made.path.write_bytes(b"damaged")
    with pytest.raises(EngineMissingError):
        prepare(onnx, place, EngineOptions(build=False))
    assert len(builds.made) == 1


def test_without_room_nothing_is_begun(
    onnx: Path, place: Place, builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 1 kB\n")
    monkeypatch.setattr(headroom, "MEMINFO", tmp_path / "meminfo")
    said: list[str] = []
    with pytest.raises(EngineError, match="building an engine: expected at least 1 MiB of memory"):
        prepare(onnx, dataclasses.replace(place, reporter=Reporter(said.append)))
    assert (said, builds.made) == ([], [])
    assert [path.name for path in place.cache.folder.iterdir()] == [".lock"]
