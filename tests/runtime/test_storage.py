from __future__ import annotations

import json
import os
import pwd
import tempfile
import threading
from pathlib import Path

import pytest

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.storage import cache_dir, locked, replacing, sweep, write_json


@pytest.mark.parametrize(
    ("ours", "xdg", "expected"),
    [
        ("HOME/mine", "HOME/xdg", "mine"),
        (None, "HOME/xdg", "xdg/hybrid-edge"),
        *((None, other, ".cache/hybrid-edge") for other in ("", "relative/folder")),
    ],
)
def test_the_cache_is_where_the_environment_says_else_in_xdgs_folder_else_below_home_and_not_created(
    ours: str | None, xdg: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYBRID_EDGE_CACHE")
    for name, value in {"HYBRID_EDGE_CACHE": ours, "XDG_CACHE_HOME": xdg, "HOME": "HOME"}.items():
        if value is not None:
            monkeypatch.setenv(name, value.replace("HOME", str(tmp_path)))
    assert cache_dir() == tmp_path / expected
    assert not list(tmp_path.iterdir())


def test_a_user_without_a_home_has_a_cache_that_nobody_else_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HYBRID_EDGE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # nobody in /etc/passwd
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "hybrid-edge-54321"
    folder.mkdir(mode=0o700)
    with pytest.raises(UsageError, match="this user's alone"):  # it is that of whoever runs the test
        cache_dir()
    monkeypatch.setattr(os, "getuid", folder.lstat().st_uid.__int__)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    mine = cache_dir()
    assert (mine, mine.stat().st_mode & 0o777) == (tmp_path / f"hybrid-edge-{os.getuid()}", 0o700)
    assert cache_dir() == mine
    mine.chmod(0o777)
    with pytest.raises(UsageError, match="this user's alone"):
        cache_dir()
    mine.rmdir()
    mine.symlink_to(folder)
    with pytest.raises(UsageError, match="HYBRID_EDGE_CACHE"):
        cache_dir()
    monkeypatch.setenv("HYBRID_EDGE_CACHE", "~/cache")
    with pytest.raises(UsageError, match="unknown home"):
        cache_dir()


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "figures.json"
    write_json(path, {"ä": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ä": 1}
    assert path.stat().st_mode & 0o044  # as readable as any other file
    with pytest.raises(InterruptedError), replacing(path) as partial:
        _give_up(partial.write_text("half"))
    assert [path] == list(path.parent.iterdir())
    assert "ä" in path.read_text(encoding="utf-8")


def test_a_name_that_is_not_utf8_is_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xf0.png")
    write_json(tmp_path / "skipped.json", [name, "\u00e9"])
    assert json.loads((tmp_path / "skipped.json").read_text(encoding="utf-8")) == [name, "\u00e9"]


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path) -> None:
    for name in (".a.json-x1.tmp", ".a.json-x2.tmp.png", ".b.json-x3.tmp", "a.json"):
        (tmp_path / name).touch()
    sweep(tmp_path, "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {".b.json-x3.tmp", "a.json"}


@pytest.mark.parametrize("name", ["new/lock", ""])
def test_a_lock_of_a_file_or_a_folder_is_waited_for(name: str, tmp_path: Path) -> None:
    waiting, entered = threading.Event(), threading.Event()

    def wait() -> None:
        with locked(tmp_path / name, waiting.set):
            entered.set()

    with locked(tmp_path / name, lambda: pytest.fail("nobody holds it")):
        other = threading.Thread(target=wait)
        other.start()
        assert waiting.wait(5)
        assert not entered.is_set()
        with pytest.raises(InterruptedError), locked(tmp_path / name, _give_up):
            pass
    other.join(5)
    assert entered.is_set()


def _give_up(*_: object) -> None:
    raise InterruptedError
