"""A whole training on real digits: what the run folder holds, how it resumes, what an interruption leaves."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from hybrid_edge.runtime.errors import RunError
from hybrid_edge.runtime.spec import preset
from hybrid_edge.train import trainer
from hybrid_edge.train.batches import Batches
from hybrid_edge.train.data import read_list
from hybrid_edge.train.evaluation import evaluate
from hybrid_edge.train.model_file import load_model, read_spec
from hybrid_edge.train.run_folder import RunFolder
from hybrid_edge.train.settings import PHASES, TrainSettings

KILLER = """
import os, signal, sys
from pathlib import Path
from hybrid_edge.train import callbacks, trainer
from hybrid_edge.train.settings import TrainSettings
original = callbacks.EpochLog.on_epoch_end
def on_epoch_end(self, epoch, logs=None):
    if (self.state.phase, epoch) == {moment}:
        os.kill(os.getpid(), signal.{signal})
    original(self, epoch, logs)
callbacks.EpochLog.on_epoch_end = on_epoch_end
settings = TrainSettings.make(**__import__("json").loads(Path(sys.argv[1]).read_text()))
try:
    trainer.train(settings, Path(sys.argv[2]), "broken")
except KeyboardInterrupt:
    sys.exit(130)
"""


def settings(data: Path, branches: str = "hybrid", epochs: tuple[int, int] = (2, 1), **fields: object) -> TrainSettings:
    phases = [
        phase.model_copy(update={"epochs": count, "batch_size": 12})
        for phase, count in zip(PHASES["digits"], epochs, strict=True)
    ]
    spec = preset("digits", branches)  # type: ignore[arg-type]
    return TrainSettings.make(**{"data": str(data), "spec": spec, "phases": phases, "seed": 3, **fields})


def history(run: RunFolder) -> list[dict[str, float]]:
    with run.history.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trainer.train(settings(few_digits), tmp_path_factory.mktemp("project") / "runs", "first")


def test_the_run_folder_holds_what_the_next_commands_need(run: RunFolder) -> None:
    names = {path.name for path in run.path.iterdir()}
    assert {
        "model.keras", "spec.json", "metrics.json", "history.csv", "curves.png", "confusion.png", "classes.png",
        "tensorboard", "train.txt", "validation.txt", "calibration.txt", "settings.json",
    } <= names  # fmt: skip
    assert read_spec(run.model).class_labels == ("0", "3", "7")
    assert len(read_list(run.images("train"))) == 72
    assert len(read_list(run.images("validation"))) == 18
    assert any((run.tensorboard / "phase1").rglob("events.out.tfevents.*"))
    assert RunFolder.find(runs=run.path.parent).path == run.path


def test_a_train_and_validation_image_are_never_the_same(run: RunFolder) -> None:
    train, validation, calibration = (
        {image.path for image in read_list(run.images(kind))} for kind in ("train", "validation", "calibration")
    )
    assert not train & validation
    assert calibration <= train


def test_the_metrics_are_those_of_the_saved_model(run: RunFolder) -> None:
    metrics = json.loads(run.metrics.read_text())
    model, spec = load_model(run.model)
    measured = evaluate(model, Batches(read_list(run.images("validation")), spec, 7))
    assert metrics["top1"] == pytest.approx(measured.top(1))
    assert metrics["loss"] == pytest.approx(measured.loss, rel=1e-4)
    assert [rate["label"] for rate in metrics["classes"]] == ["0", "3", "7"]
    assert metrics["interrupted"] is False


def test_history_has_one_row_an_epoch_of_both_phases(run: RunFolder) -> None:
    assert [(row["phase"], row["epoch"]) for row in history(run)] == [(1, 1), (1, 2), (2, 1)]


def test_training_learns(run: RunFolder) -> None:
    rows = history(run)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert json.loads(run.metrics.read_text())["top1"] > 1 / 3


def test_a_name_that_exists_is_refused_and_the_run_is_left_alone(run: RunFolder, few_digits: Path) -> None:
    before = run.model.read_bytes()
    with pytest.raises(RunError, match="exists; choose another --name"):
        trainer.train(settings(few_digits), run.path.parent, "first")
    assert run.model.read_bytes() == before


def test_a_run_with_batchnorm_keeps_the_better_statistics(few_digits: Path, tmp_path: Path) -> None:
    run = trainer.train(settings(few_digits, "rnn", bn_batches=6), tmp_path, "rnn")
    for result in json.loads(run.metrics.read_text())["phases"]:
        names = [candidate["weights"] for candidate in result["candidates"]]
        assert "best epoch" in names
        assert "best epoch, BatchNorm re-estimated" in names
        losses = {candidate["weights"]: candidate["loss"] for candidate in result["candidates"]}
        if result["phase"] == 1:
            assert losses[result["kept"]] == min(losses.values())


def test_a_frozen_cnn_stays_as_it_was_and_its_features_are_cached(
    run: RunFolder, few_digits: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = settings(few_digits, weights=str(run.model), epochs=(2, 0))
    frozen = base.model_copy(
        update={"phases": (base.phases[0].model_copy(update={"freeze_cnn": True}), base.phases[1])}
    )
    made = trainer.train(frozen, tmp_path, "frozen")
    before, after = load_model(run.model)[0], load_model(made.model)[0]
    for old, new in zip(before.get_layer("cnn").get_weights(), after.get_layer("cnn").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(before.get_layer("logits").get_weights()[0], after.get_layer("logits").get_weights()[0])
    assert list((cache / "features").glob("*/rows.float32"))
    capsys.readouterr()
    trainer.train(frozen, tmp_path, "again")
    assert "0 computed, 90 from" in capsys.readouterr().err


@pytest.mark.parametrize("moment", [(1, 1), (2, 0)])
def test_a_killed_run_resumed_ends_as_the_unbroken_one(
    few_digits: Path, tmp_path: Path, moment: tuple[int, int]
) -> None:
    chosen = settings(few_digits, "rnn", epochs=(3, 1), bn_batches=4)
    described = tmp_path / "settings.json"
    described.write_text(chosen.model_dump_json())
    code = KILLER.format(moment=moment, signal="SIGKILL")
    killed = subprocess.run([sys.executable, "-c", code, described, tmp_path], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    broken = RunFolder(tmp_path / "broken")
    assert not broken.model.exists()
    resumed = trainer.resume(runs=tmp_path)
    unbroken = trainer.train(chosen, tmp_path, "unbroken")
    one, other = history(resumed), history(unbroken)
    assert [(row["phase"], row["epoch"]) for row in one] == [(row["phase"], row["epoch"]) for row in other]
    np.testing.assert_allclose([row["loss"] for row in one], [row["loss"] for row in other], rtol=1e-2)
    assert json.loads(resumed.metrics.read_text())["loss"] == pytest.approx(
        json.loads(unbroken.metrics.read_text())["loss"], rel=2e-2
    )
    assert not [path for path in broken.path.rglob(".*") if path.is_file()]


def test_ctrl_c_leaves_a_model_that_can_be_exported_and_a_run_that_goes_on(few_digits: Path, tmp_path: Path) -> None:
    described = tmp_path / "settings.json"
    described.write_text(settings(few_digits, epochs=(3, 1)).model_dump_json())
    code = KILLER.format(moment=(1, 1), signal="SIGINT")
    stopped = subprocess.run(
        [sys.executable, "-c", code, described, tmp_path], capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 130, stopped.stderr
    run = RunFolder.find(runs=tmp_path)
    assert json.loads(run.metrics.read_text())["interrupted"] is True
    load_model(run.model)
    trainer.resume(runs=tmp_path)
    assert [(row["phase"], row["epoch"]) for row in history(run)] == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert json.loads(run.metrics.read_text())["interrupted"] is False


def test_resuming_a_finished_run_changes_nothing(run: RunFolder) -> None:
    before = [(row["phase"], row["epoch"]) for row in history(run)]
    top1 = json.loads(run.metrics.read_text())["top1"]
    trainer.resume(run.path)
    assert [(row["phase"], row["epoch"]) for row in history(run)] == before
    assert json.loads(run.metrics.read_text())["top1"] == top1


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run folder"):
        trainer.resume(runs=tmp_path)


def test_memory_does_not_grow_with_the_number_of_images(few_digits: Path, tmp_path: Path) -> None:
    """The stream of batches over ten thousand files holds no more than over a hundred."""
    code = (
        "import sys, resource\nfrom pathlib import Path\n"
        "from hybrid_edge.train.batches import TrainingBatches\nfrom hybrid_edge.train.data import LabelledImage\n"
        "from hybrid_edge.runtime.spec import ModelSpec\n"
        "spec = ModelSpec(image_size=299, class_labels=('0', '3'))\n"
        "images = [LabelledImage(Path(sys.argv[1]), '0')] * int(sys.argv[2])\n"
        "batches = TrainingBatches(images, spec, 16, seed=0)\n"
        "[batches[i] for i in range(3)]\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for i in range(len(images) // 16): batches[i]\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    image = next((few_digits / "train" / "0").iterdir())
    grown = [
        int(subprocess.run([sys.executable, "-c", code, image, str(count)], capture_output=True, check=True).stdout)
        for count in (160, 3200)
    ]
    assert grown[1] - grown[0] < 40_000, "KiB more for 20 times the images"


def test_a_seed_gives_the_same_training_twice(few_digits: Path, tmp_path: Path) -> None:
    losses = [
        history(trainer.train(settings(few_digits, "rnn", (1, 0), bn_batches=0), tmp_path, name))[0]["loss"]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
