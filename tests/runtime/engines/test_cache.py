import dataclasses
import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.gpu.engine_fixtures import ORIN, another_users

from hybrid_edge.runtime.engines.cache import EngineCache, EngineKey
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import Library

KEY = EngineKey("0" * 64, "tensorrt", "10.3.0", "Orin", (8, 7), (1, 1, 8), None)
ENGINE = b"ftrt" + bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def stored(cache: EngineCache) -> Path:
    cache.store(KEY, ENGINE, seconds=12.5, label="TensorRT 10.3.0 on Orin")
    return cache.path(KEY)


def test_an_engine_comes_back_byte_for_byte_with_a_record_beside_it(cache: EngineCache, stored: Path) -> None:
    found = cache.lookup(KEY)
    assert found.data == stored.read_bytes() == ENGINE  # a header would break trtexec
    assert (found.record.seconds, found.record.key) == (12.5, KEY)
    record = json.loads(stored.with_suffix(".json").read_text())
    assert (record["key"]["gpu"], record["label"]) == ("Orin", "TensorRT 10.3.0 on Orin")
    assert sorted(path.name for path in stored.parent.iterdir()) == sorted([stored.name, f"{KEY.name}.json"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("onnx_sha256", "1" * 64),
        ("kind", "rtx"),
        ("version", "10.3.1"),
        ("gpu", "Thor"),
        ("compute_capability", (8, 9)),
        ("profile", (1, 2, 8)),
        ("workspace", 2**30),
        ("flags", "none"),
        ("multiprocessors", 16),
    ],
)
def test_whatever_an_engine_depends_on_is_in_its_key(cache: EngineCache, stored: Path, name: str, value: Any) -> None:
    assert cache.lookup(dataclasses.replace(KEY, **{name: value})) is None


def test_orins_of_one_name_do_not_share_engines(cache: EngineCache) -> None:
    """An AGX Orin has twice an Orin Nano's multiprocessors; name and compute capability are the same."""
    options, library = EngineOptions(), Library(None, "tensorrt", "10.3.0")
    boards = [dataclasses.replace(ORIN, multiprocessors=number) for number in (8, 16)]
    keys = [EngineKey.of("0" * 64, library, board, options) for board in boards]
    cache.store(keys[0], ENGINE, seconds=1, label="")
    assert [cache.lookup(key) is not None for key in keys] == [True, False]
    assert keys[0].timing_name != keys[1].timing_name


def test_engines_of_tensorrt_rtx_are_told_from_those_built_before_they_could_be_captured(rtx: Library) -> None:
    flags = EngineKey.of("0" * 64, rtx, ORIN, EngineOptions()).flags
    assert flags == "STRONGLY_TYPED,-TF32,REQUIRE_USER_ALLOCATION"
    assert EngineKey.of("0" * 64, Library(rtx.module, "tensorrt", "11.0"), ORIN, EngineOptions()).flags == KEY.flags


def test_whether_it_may_be_built_is_nothing_that_an_engine_depends_on() -> None:
    library = Library(None, "tensorrt", "10.3.0")
    keys = [EngineKey.of("0" * 64, library, ORIN, EngineOptions(build=build)).name for build in (True, False)]
    assert keys[0] == keys[1]


def truncate(_: EngineCache, path: Path) -> None:
    path.write_bytes(ENGINE[:-1])


def alter(_: EngineCache, path: Path) -> None:
    path.write_bytes(ENGINE[:100] + bytes([ENGINE[100] ^ 1]) + ENGINE[101:])


def exchange(cache: EngineCache, path: Path) -> None:
    """Another machine's files, copied over the ones of this key: whole, and not for this GPU."""
    other = dataclasses.replace(KEY, gpu="Thor")
    cache.store(other, ENGINE, seconds=1, label="TensorRT 10.3.0 on Thor")
    for suffix in (".engine", ".json"):
        cache.path(other).with_suffix(suffix).replace(path.with_suffix(suffix))


def record(text: str) -> Any:
    return lambda _, path: path.with_suffix(".json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, f"expected {len(ENGINE)} bytes, found {len(ENGINE) - 1}; building it again"),
        (alter, "expected the bytes that were written, found others"),
        (exchange, "found one made for something else"),
        *((record(text), "expected a record of its engine") for text in ("", "{}", "[1]", "not JSON", '{"format": 2}')),
    ],
)
def test_a_damaged_or_foreign_engine_is_refused_before_parsing_and_replaced_by_the_next_one(
    cache: EngineCache, stored: Path, damage: Any, reason: str
) -> None:
    damage(cache, stored)
    reasons: list[str] = []
    assert cache.lookup(KEY, reasons.append) is None
    assert len(reasons) == 1
    assert reason in reasons[0]
    cache.store(KEY, ENGINE[::-1], seconds=1, label="again")
    found = cache.lookup(KEY)
    assert found.data == ENGINE[::-1]


def test_an_engine_without_a_record_is_not_there(cache: EngineCache, stored: Path) -> None:
    stored.with_suffix(".json").unlink()
    assert cache.lookup(KEY) is None


def test_engines_unused_for_longest_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EngineCache(tmp_path)
    monkeypatch.setattr("hybrid_edge.runtime.engines.cache.MAX_CACHE_SIZE", 3 * len(ENGINE))
    keys = [dataclasses.replace(KEY, onnx_sha256=f"{number:064}") for number in range(4)]
    for number, key in enumerate(keys[:3]):
        cache.store(key, ENGINE, seconds=1, label="")
        os.utime(cache.path(key), (number, number))
    assert cache.lookup(keys[0]) is not None  # and so it is the one used last
    cache.store(keys[3], ENGINE, seconds=1, label="")
    assert [cache.lookup(key) is not None for key in keys] == [True, False, True, True]
    assert len(list(tmp_path.iterdir())) == 6


def test_what_a_killed_process_left_is_swept_by_the_next_that_builds(cache: EngineCache, stored: Path) -> None:
    partial, fresh = (stored.parent / f".{stored.name}-{name}.tmp" for name in ("x1", "x2"))
    for path in (partial, fresh):
        path.write_bytes(ENGINE)
    before = time.time() - 3600
    os.utime(partial, (before, before))
    with cache.locked():
        assert not partial.exists()
        assert fresh.exists()  # another process writes it: notes are kept without the lock
        assert stored.exists()


def test_a_note_comes_back_whole_or_not_at_all(cache: EngineCache) -> None:
    assert cache.read_note("a.timing") is None
    cache.keep_note("a.timing", b"times\nof kernels")
    assert cache.read_note("a.timing") == b"times\nof kernels"
    path = cache.folder / "a.timing"
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.read_note("a.timing") is None


@pytest.mark.parametrize("fault", ["no folder", "another user's"])
def test_what_can_not_be_kept_is_told_and_the_engine_given_all_the_same(tmp_path: Path, fault: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "engines").mkdir()
    cache = EngineCache(tmp_path / "file" / "engines" if fault == "no folder" else tmp_path / "engines")
    told: list[str] = []
    with another_users(tmp_path / "engines"):
        made = cache.store(KEY, ENGINE, seconds=1, label="", on_refusal=told.append)
        cache.keep_note("a.timing", b"times", told.append)
        with cache.locked(on_refusal=told.append):
            entered = True
    assert made.data == ENGINE
    assert entered
    reason = "Not a directory" if fault == "no folder" else "Permission denied"
    kept = f"{cache.folder}: engines can't be kept here ({reason}); HYBRID_EDGE_CACHE names another cache folder"
    assert told[:2] == [kept, kept]
    assert told[2].startswith(f"{cache.folder}: can't be locked ({reason}); another process may build meanwhile")


def test_another_users_cache_is_read_and_its_lock_waited_for(cache: EngineCache, stored: Path) -> None:
    """Also where nothing can be written: who builds there, builds alone."""
    with cache.locked():
        pass
    told: list[str] = []
    waited, done = threading.Event(), threading.Event()

    def build() -> None:
        with cache.locked(waited.set, told.append):
            done.set()

    with another_users(cache.folder):
        assert cache.lookup(KEY, told.append) is not None
        with cache.locked(on_refusal=told.append):
            thread = threading.Thread(target=build)
            thread.start()
            assert waited.wait(10)
            assert not done.is_set()
        thread.join()
    assert done.is_set()
    assert told == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_disk_without_locks_is_told_and_used(cache: EngineCache, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """As a network's disk may answer; the disks here have locks."""

    def flock(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    told: list[str] = []
    with cache.locked(on_refusal=told.append):
        cache.store(KEY, ENGINE, seconds=1, label="", on_refusal=told.append)
    assert len(told) == 1
    assert f"can't be locked ({os.strerror(code)})" in told[0]
    assert cache.lookup(KEY) is not None


def test_an_engine_larger_than_the_limit_is_kept_alone_and_what_was_compiled_goes_with_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.engines.cache.MAX_CACHE_SIZE", 10)
    cache = EngineCache(tmp_path)
    cache.store(KEY, ENGINE, seconds=1, label="")
    cache.keep_note(f"{KEY.name}.kernels", b"compiled")
    other = dataclasses.replace(KEY, version="11.0")
    cache.store(other, ENGINE, seconds=1, label="")
    assert cache.lookup(other) is not None
    names = [f"{other.name}.{name}" for name in ("engine", "json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_the_cache_is_where_everything_else_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path))
    assert EngineCache().folder == tmp_path / "engines"
