"""The run folder: its name, its lock, what is said when it can't be made."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from hybrid_edge.runtime.errors import RunError
from hybrid_edge.train import run_folder
from hybrid_edge.train.run_folder import RunFolder


class Clock:
    @staticmethod
    def now() -> datetime:
        return datetime(2026, 11, 21, 10, 0, 0)


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "datetime", Clock)
    names = [RunFolder.create(tmp_path, None, "cnn").name for _ in range(3)]
    assert names == ["20261121-100000-cnn", "20261121-100000-cnn-2", "20261121-100000-cnn-3"]
    assert RunFolder.find(runs=tmp_path).name == names[-1]


@pytest.mark.parametrize("name", ["", "..", "latest", "a/b"])
def test_a_name_that_is_no_folder_of_runs_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="one folder name"):
        RunFolder.create(tmp_path / "runs", name, "cnn")
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_hold_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
    for place in ("file", "dangling", "file/deeper"):
        with pytest.raises(RunError, match=f"{place}: can't make a run folder here .*--runs"):
            RunFolder.create(tmp_path / place, None, "cnn")


def test_a_latest_that_is_a_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest" / "mine").mkdir(parents=True)
    with pytest.raises(RunError, match="can't make a run folder here"):
        RunFolder.create(tmp_path, "one", "cnn")
    assert (tmp_path / "latest" / "mine").is_dir()
    assert not list(tmp_path.glob(".latest-*"))


def test_two_processes_do_not_train_in_one_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "one", "cnn")
    with (
        run.locked(),
        pytest.raises(RunError, match="another process trains in this run"),
        RunFolder(run.path).locked(),
    ):
        pass
    with run.locked():
        pass
