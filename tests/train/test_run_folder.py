import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.data.image_folders import add, numbered, relative

pytest.importorskip("keras")

from hybrid_edge.runtime.errors import DataError, RunError
from hybrid_edge.runtime.spec import preset
from hybrid_edge.runtime.storage import write_json
from hybrid_edge.train import run_folder
from hybrid_edge.train.checkpoints import TrainingState, read_stopped, record_start
from hybrid_edge.train.data import scan_for
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
def data(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        add(tmp_path / "data" / split / "a", *numbered(3))
        add(tmp_path / "data" / split / "b", *numbered(3, ".png"))
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path: Path, data: Path, own_cache: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "runs", "stopped", "hybrid")
    settings = TrainSettings.make(data=str(data), spec=preset("digits"), phases=PHASES["digits"])
    record_start(run, settings, SPEC, scan_for(settings))
    write_json(run.state, vars(TrainingState(epoch=1, weights="phase1-epoch1.weights.h5")))
    return run


def test_a_stopped_run_is_read_back(run: RunFolder, data: Path) -> None:
    training, state = read_stopped(run)
    assert (training.spec, state.epoch) == (SPEC, 1)
    assert relative((*training.train, *training.validation), data)[::6] == ["train/a/000.jpg", "val/a/000.jpg"]


def removed(data: Path) -> None:
    (data / "train/a/001.jpg").unlink()
    (data / "val/b/002.png").unlink()


def other_content(data: Path) -> None:
    shutil.copy(data / "train/a/001.jpg", data / "train/a/000.jpg")
    add(data / "train/a", "001.jpg")


def renamed_class(data: Path) -> None:
    for split in ("train", "val"):
        (data / split / "a").rename(data / split / "c")


DAMAGED = r"1 no longer readable \(.*train/a/000.jpg\)\. Put them back.*hybrid-train .*data$"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (removed, r"run stopped .*: 2 removed \(.*train/a/001.jpg, .*val/b/002.png\)\. Put"),
        (lambda data: add(data / "train/a", "new.png"), r": 1 added \(.*train/a/new.png\)\. Put"),
        (other_content, r": 2 with other content \(.*train/a/000.jpg, .*train/a/001.jpg\)\. Put"),
        (lambda data: (data / "train/a/000.jpg").write_bytes(b"torn"), DAMAGED),
        (renamed_class, r": 6 removed \(.*, …\); 6 added \("),
        (lambda data: data.rename(data.with_name("moved")), r": 12 removed \("),
        (lambda data: shutil.rmtree(data / "val/b"), r": 3 removed \("),
    ],
)
def test_data_that_changed_is_named_before_anything_starts(
    run: RunFolder, data: Path, change: Callable[[Path], object], message: str
) -> None:
    change(data)
    with pytest.raises(DataError, match=message):
        read_stopped(run)


def test_a_label_that_changed_in_the_table_is_named(data: Path, tmp_path: Path, own_cache: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"{split}/a/00{i}.jpg,{'ab'[i % 2]}\n" for split in ("train", "val") for i in range(3)))
    settings = TrainSettings.make(
        data=str(data), labels=str(table), spec=preset("digits"), phases=PHASES["digits"], val_fraction=0.4
    )
    run = RunFolder.create(tmp_path, "table", "hybrid")
    record_start(run, settings, SPEC, scan_for(settings))
    read_stopped(run)
    table.write_text(table.read_text().replace("val/a/000.jpg,a", "val/a/000.jpg,b"))
    with pytest.raises(DataError, match=r": 1 in another class \(.*val/a/000.jpg\)\. Put"):
        read_stopped(run)


def test_an_image_that_is_in_both_lists_is_no_change(data: Path, tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / "val.csv").write_text("a/001.jpg,a\nb/002.png,b\n")
    settings = TrainSettings.make(
        data=str(data / "train"), val=str(tmp_path / "val.csv"), spec=preset("digits"), phases=PHASES["digits"]
    )
    run = RunFolder.create(tmp_path, "both", "hybrid")
    record_start(run, settings, SPEC, scan_for(settings))
    read_stopped(run)


def test_what_changes_no_image_of_the_run_is_no_change(run: RunFolder, data: Path) -> None:
    for image in data.rglob("*.jpg"):
        os.utime(image, (1, 1))
    (data / "train/a/notes.txt").touch()
    read_stopped(run)
    add(data / "train/a", "new.png")
    write_json(run.state, vars(TrainingState(phase=3)))  # only the final validation is left
    read_stopped(run)
    write_json(run.state, vars(TrainingState()))
    run.contents.unlink()  # as in a run of an older version
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
