import json
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

pytest.importorskip("keras")

from hybrid_edge.runtime.errors import DataError, RunError
from hybrid_edge.runtime.spec import preset
from hybrid_edge.runtime.storage import write_json
from hybrid_edge.train import run_folder
from hybrid_edge.train.checkpoints import TrainingState, read_stopped
from hybrid_edge.train.data import LabelledImage, write_list
from hybrid_edge.train.run_folder import RunFolder
from hybrid_edge.train.training_settings import PHASES, TrainSettings

SPEC = preset("digits").replace(class_labels=("a", "b"))


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "datetime", Mock(now=lambda: datetime(2026, 11, 21, 10, 0, 0)))
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
    with run.locked(), pytest.raises(RunError, match="another process trains"), RunFolder(run.path).locked():
        pass
    with run.locked():
        pass


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "runs", "stopped", "hybrid")
    run.checkpoints.mkdir()
    settings = TrainSettings.make(data=str(tmp_path / "data"), spec=preset("digits"), phases=PHASES["digits"])
    write_json(run.settings, settings.model_dump())
    write_json(run.spec, SPEC.model_dump())
    write_json(run.state, vars(TrainingState(epoch=1, weights="phase1-epoch1.weights.h5")))
    for kind in ("train", "validation"):
        path = tmp_path / "data" / f"{kind}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        write_list(run.images(kind), [LabelledImage(path, "a")])
    return run


def test_a_stopped_run_is_read_back(run: RunFolder) -> None:
    training, state = read_stopped(run)
    assert (training.spec, state.epoch) == (SPEC, 1)
    assert [image.path.name for image in training.train + training.validation] == ["train.png", "validation.png"]


def test_data_that_moved_is_named_before_anything_starts(run: RunFolder) -> None:
    data = run.path.parent.parent / "data"
    data.rename(data.with_name("moved"))
    with pytest.raises(DataError, match=r"2 of the run's 2 images are no longer there.*put DATA back where it was"):
        read_stopped(run)


@pytest.mark.parametrize("name", ["settings.json", "spec.json", "state.json", "train.txt", "validation.txt"])
def test_what_is_missing_is_named(run: RunFolder, name: str) -> None:
    (run.path / name).unlink()
    with pytest.raises(RunError, match=f"{name}.*not a complete run"):
        read_stopped(run)


@pytest.mark.parametrize("name", ["settings.json", "spec.json", "state.json"])
@pytest.mark.parametrize("content", [{"from": "the future"}, [1], None])
def test_a_file_of_another_version_is_named(run: RunFolder, name: str, content: object) -> None:
    (run.path / name).write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"{name} is damaged, or of another version"):
        read_stopped(run)


def test_what_a_kill_left_behind_is_swept_and_nothing_else(run: RunFolder) -> None:
    kept = [
        run.checkpoints / "phase1-epoch1.weights.h5",
        run.checkpoints / "phase1-best.keras",
        run.path / ".bundle.tar-abc.tmp",  # hybrid-export may be writing it
    ]
    swept = [
        run.checkpoints / ".phase1-best.keras-abc.tmp.keras",
        run.checkpoints / ".phase1-epoch2.weights.h5-abc.tmp.weights.h5",
        run.checkpoints / "phase1-epoch0.weights.h5",
        run.path / ".state.json-abc.tmp",
        run.path / ".model.keras-abc.tmp.keras",
        run.path / ".curves.png-abc.tmp.png",
    ]
    for path in kept + swept:
        path.touch()
    read_stopped(run)
    assert [path.name for path in kept + swept if path.exists()] == [path.name for path in kept]
