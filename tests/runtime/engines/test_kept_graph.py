import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gpu.engine_fixtures import another_users

from hybrid_edge.runtime.engines.cache import EngineCache
from hybrid_edge.runtime.engines.kept_graph import GraphKey, KeptGraph, find_graph, keep_graph

KEY = GraphKey("0" * 64, "1.31.1", "x86_64 2 abc", "[]")
GRAPH, WEIGHTS = b"optimized" * 50, bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def write(path: Path, weights: str) -> None:
    path.write_bytes(GRAPH)
    path.with_name(weights).write_bytes(WEIGHTS)


def keep(cache: EngineCache, key: GraphKey = KEY, told: Callable[[str], object] = lambda _: None) -> KeptGraph | None:
    return keep_graph(cache, key, len(GRAPH) + len(WEIGHTS), write, told)


def test_a_graph_and_its_weights_come_back_as_they_were_written(cache: EngineCache) -> None:
    kept = keep(cache)
    assert find_graph(cache, KEY) == kept
    assert kept is not None
    assert (kept.path.read_bytes(), kept.path.with_suffix(".weights").read_bytes()) == (GRAPH, WEIGHTS)
    names = {f"{KEY.name}{suffix}" for suffix in (".onnx", ".weights", ".graph")}
    assert {path.name for path in cache.folder.iterdir()} == {*names, ".lock"}


@pytest.mark.parametrize("field", ["onnx_sha256", "version", "cpu", "settings"])
def test_whatever_a_graph_depends_on_is_in_its_key(cache: EngineCache, field: str) -> None:
    keep(cache)
    assert find_graph(cache, dataclasses.replace(KEY, **{field: "another"})) is None


def truncate(_: EngineCache, path: Path) -> None:
    path.write_bytes(GRAPH[:-1])


def alter(_: EngineCache, path: Path) -> None:
    path.with_suffix(".weights").write_bytes(WEIGHTS[:100] + bytes([WEIGHTS[100] ^ 1]) + WEIGHTS[101:])


def lose(_: EngineCache, path: Path) -> None:
    path.with_suffix(".weights").unlink()


def exchange(cache: EngineCache, path: Path) -> None:
    """Another CPU's files, copied over the ones of this key: whole, and not for this one."""
    other = keep(cache, dataclasses.replace(KEY, cpu="aarch64 4 def"))
    assert other is not None
    for suffix in (".onnx", ".weights", ".graph"):
        other.path.with_suffix(suffix).replace(path.with_suffix(suffix))


def another_note(cache: EngineCache, path: Path) -> None:
    cache.keep_note(f"{path.stem}.graph", b'{"sha256": 1}')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, f"expected {len(GRAPH)} bytes in {KEY.name}.onnx, found {len(GRAPH) - 1}; making it again"),
        (alter, f"expected the bytes that were written in {KEY.name}.weights, found others"),
        (lose, "No such file"),
        (exchange, "found one made for something else"),
        (another_note, "expected its record beside it"),
    ],
)
def test_a_damaged_or_foreign_graph_is_not_used_and_the_next_one_takes_its_place(
    cache: EngineCache, damage: Any, reason: str
) -> None:
    kept = keep(cache)
    assert kept is not None
    damage(cache, kept.path)
    told: list[str] = []
    assert find_graph(cache, KEY, told.append) is None
    assert len(told) == 1
    assert reason in told[0]
    keep(cache)
    assert find_graph(cache, KEY) == kept


def test_a_graph_whose_record_is_cut_is_not_there(cache: EngineCache) -> None:
    keep(cache)
    note = cache.folder / f"{KEY.name}.graph"
    note.write_bytes(note.read_bytes()[:-1])
    assert find_graph(cache, KEY) is None


def test_nobody_waits_for_another_process_that_builds(cache: EngineCache) -> None:
    with cache.locked():
        assert keep(cache) is None  # flock knows descriptors, not processes
    assert keep(cache) is not None


def test_where_nothing_can_be_written_nothing_is_said_and_nothing_fails(cache: EngineCache) -> None:
    told: list[str] = []
    cache.folder.mkdir(parents=True)
    with another_users(cache.folder):
        assert keep(cache, told=told.append) is None
    assert told == []


def test_whoever_comes_second_leaves_what_the_first_one_kept(cache: EngineCache) -> None:
    assert keep(cache) is not None
    assert keep_graph(cache, KEY, 1, lambda *_: pytest.fail("it was written again")) is None


def test_where_there_is_no_room_nothing_is_written(cache: EngineCache) -> None:
    told: list[str] = []
    assert keep_graph(cache, KEY, 2**60, lambda *_: pytest.fail("it was written"), told.append) is None
    assert "on disk to be free" in told[0]


def test_a_graph_that_can_not_be_made_leaves_nothing_behind(cache: EngineCache) -> None:
    def fail(path: Path, weights: str) -> None:
        write(path, weights)
        raise RuntimeError("the engine's own words")

    with pytest.raises(RuntimeError, match="the engine's own words"):
        keep_graph(cache, KEY, 1, fail)
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_what_a_killed_process_left_half_made_is_swept(cache: EngineCache) -> None:
    left = cache.folder / ".graph-x1.tmp"
    left.mkdir(parents=True)
    write(left / "a.onnx", "a.weights")
    before = time.time() - 3600
    os.utime(left, (before, before))
    keep(cache)
    assert not left.exists()


def test_graphs_unused_for_longest_go_with_their_weights(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.engines.cache.MAX_CACHE_SIZE", 2 * (len(GRAPH) + len(WEIGHTS)))
    keys = [dataclasses.replace(KEY, onnx_sha256=f"{number:064}") for number in range(3)]
    for number, key in enumerate(keys[:2]):
        kept = keep(cache, key)
        assert kept is not None
        os.utime(kept.path, (number, number))
    assert find_graph(cache, keys[0]) is not None  # and so it is the one used last
    keep(cache, keys[2])
    assert [find_graph(cache, key) is not None for key in keys] == [True, False, True]
    assert len(list(cache.folder.glob(f"{keys[1].name}*"))) == 0
