"""A whole training on real digits: what the run folder holds, how it resumes, what an interruption leaves."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from hybrid_edge.runtime.errors import DataError, RunError
from hybrid_edge.runtime.spec import preset
from hybrid_edge.train import trainer
from hybrid_edge.train.batches import Batches
from hybrid_edge.train.callbacks import EpochLog, PhaseState
from hybrid_edge.train.data import read_list
from hybrid_edge.train.evaluation import evaluate
from hybrid_edge.train.model_file import load_model, read_spec
from hybrid_edge.train.phase import Training
from hybrid_edge.train.run_folder import RunFolder
from hybrid_edge.train.settings import PHASES, TrainSettings

# SIGKILL inside the write of the second epoch's checkpoint: nothing can clean up
KILLER = """
import os, signal, sys
from pathlib import Path
from hybrid_edge.runtime import storage
from hybrid_edge.train import callbacks, trainer
from hybrid_edge.train.settings import TrainSettings
original = callbacks.EpochLog._save_state
def save_state(self):
    if self.state.epoch == 2:
        storage.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    original(self)
callbacks.EpochLog._save_state = save_state
settings = TrainSettings.make(**__import__("json").loads(Path(sys.argv[1]).read_text()))
trainer.train(settings, Path(sys.argv[2]), "broken")
"""


def settings(data: Path, branches: str = "hybrid", epochs: tuple[int, int] = (2, 1), **fields: object) -> TrainSettings:
    phases = [
        phase.model_copy(update={"epochs": count, "batch_size": 12})
        for phase, count in zip(PHASES["digits"], epochs, strict=True)
    ]
    spec = preset("digits", branches)  # type: ignore[arg-type]
    return TrainSettings.make(**{"data": str(data), "spec": spec, "phases": phases, "seed": 3, **fields})


def at_epoch(monkeypatch: pytest.MonkeyPatch, moment: tuple[int, int], action: Callable[[EpochLog], None]) -> None:
    """Do something at the end of an epoch, given as phase and epoch, just before it is recorded."""
    original = EpochLog.on_epoch_end

    def on_epoch_end(self: EpochLog, epoch: int, logs: dict[str, float] | None = None) -> None:
        if (self.state.phase, epoch + 1) == moment:
            action(self)
        original(self, epoch, logs)

    monkeypatch.setattr(EpochLog, "on_epoch_end", on_epoch_end)


def noted_rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate at the end of each epoch that is recorded."""
    rates: list[float] = []
    original = EpochLog.on_epoch_end

    def on_epoch_end(self: EpochLog, epoch: int, logs: dict[str, float] | None = None) -> None:
        original(self, epoch, logs)
        rates.append(float(self.model.optimizer.learning_rate))

    monkeypatch.setattr(EpochLog, "on_epoch_end", on_epoch_end)
    return rates


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


def test_a_frozen_cnn_stays_as_it_was_and_its_features_are_cached(
    run: RunFolder, few_digits: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = settings(few_digits, weights=str(run.model), epochs=(1, 0))
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


@pytest.fixture(scope="module")
def breakable(few_digits: Path) -> TrainSettings:
    return settings(few_digits, "rnn", epochs=(3, 1), bn_batches=4)


@pytest.fixture(scope="module")
def unbroken(breakable: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trainer.train(breakable, tmp_path_factory.mktemp("unbroken"), "unbroken")


def test_a_run_with_batchnorm_keeps_the_better_statistics(unbroken: RunFolder) -> None:
    for result in json.loads(unbroken.metrics.read_text())["phases"]:
        names = [candidate["weights"] for candidate in result["candidates"]]
        assert "best epoch" in names
        assert "best epoch, BatchNorm re-estimated" in names
        losses = {candidate["weights"]: candidate["loss"] for candidate in result["candidates"]}
        if result["phase"] == 1:
            assert losses[result["kept"]] == min(losses.values())


def same_training(resumed: RunFolder, unbroken: RunFolder) -> None:
    one, other = history(resumed), history(unbroken)
    assert [(row["phase"], row["epoch"]) for row in one] == [(row["phase"], row["epoch"]) for row in other]
    np.testing.assert_allclose([row["loss"] for row in one], [row["loss"] for row in other], rtol=1e-2)
    ends = [json.loads(run.metrics.read_text()) for run in (resumed, unbroken)]
    assert ends[0]["loss"] == pytest.approx(ends[1]["loss"], rel=2e-2)
    assert ends[0]["interrupted"] is False


def hidden_files(run: RunFolder) -> list[Path]:
    return [path for path in run.path.rglob(".*") if path.is_file()]


def test_a_run_killed_inside_a_write_ends_resumed_as_the_unbroken_one(
    breakable: TrainSettings, unbroken: RunFolder, tmp_path: Path
) -> None:
    described = tmp_path / "settings.json"
    described.write_text(breakable.model_dump_json())
    killed = subprocess.run([sys.executable, "-c", KILLER, described, tmp_path], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    broken = RunFolder(tmp_path / "broken")
    assert not broken.model.exists()
    assert hidden_files(broken), "the kill came inside a write"
    same_training(trainer.resume(runs=tmp_path), unbroken)
    assert not hidden_files(broken)


def test_a_full_disk_between_the_phases_ends_with_a_word_and_resumes(
    breakable: TrainSettings, unbroken: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: EpochLog) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        at_epoch(patch, (2, 1), full)
        with pytest.raises(RunError, match=r"stopped: No space left on device; .*hybrid-train --resume --name broken"):
            trainer.train(breakable, tmp_path, "broken")
    same_training(trainer.resume(runs=tmp_path), unbroken)


def test_ctrl_c_leaves_a_model_that_can_be_exported_and_a_run_that_goes_on(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = noted_rates(monkeypatch)
    with monkeypatch.context() as patch:
        at_epoch(patch, (1, 2), lambda _: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            trainer.train(settings(few_digits, "cnn", epochs=(3, 1)), tmp_path, "stopped")
    run = RunFolder.find(runs=tmp_path)
    assert json.loads(run.metrics.read_text())["interrupted"] is True
    load_model(run.model)
    trainer.resume(runs=tmp_path)
    assert [(row["phase"], row["epoch"]) for row in history(run)] == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert json.loads(run.metrics.read_text())["interrupted"] is False
    # half a cosine over phase 1, which goes on where it was; phase 2 is at its own rate
    assert rates == pytest.approx([3e-3, 1e-3, 0, 2e-4], abs=1e-6)


def test_ctrl_c_keeps_the_phase_before_where_that_was_better(run: RunFolder, tmp_path: Path) -> None:
    stopped = RunFolder(tmp_path / "stopped")
    stopped.checkpoints.mkdir(parents=True)
    shutil.copy(run.history, stopped.history)
    for name in ("phase1.keras", "phase2-best.keras"):
        (stopped.checkpoints / name).write_text(name)
    rate = history(run)[-1]["val_accuracy"]
    for better, expected in ((rate + 0.1, "phase1.keras"), (rate - 0.1, "phase2-best.keras")):
        first = {"phase": 1, "kept": "best epoch", "candidates": [{"weights": "best epoch", "top1": better}]}
        state = PhaseState(phase=2, epoch=1, best=rate, best_epoch=1, results=[first])
        trainer._keep_best_so_far(Training(stopped, None, None, [], [], None, state))  # type: ignore[arg-type]
        assert stopped.model.read_text() == expected


def test_ctrl_c_while_a_finished_run_is_measured_again_leaves_what_it_measured(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = run.metrics.read_bytes()
    monkeypatch.setattr(trainer, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.resume(run.path)
    assert run.metrics.read_bytes() == before
    load_model(run.model)


def test_weights_that_are_not_numbers_are_never_kept(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their accuracy is a number, and NaN is less than no other loss."""

    def poison(log: EpochLog) -> None:
        for variable in log.model.trainable_variables:
            variable.assign(variable * float("nan"))

    base = settings(few_digits, "rnn", epochs=(2, 1), bn_batches=2)
    diverging = base.model_copy(
        update={"phases": (base.phases[0], base.phases[1].model_copy(update={"learning_rate": 1e38}))}
    )
    at_epoch(monkeypatch, (1, 2), lambda log: (poison(log), setattr(log.state, "best", -1.0)))  # epoch 1 stays the best
    run = trainer.train(diverging, tmp_path, "nan")
    metrics = json.loads(run.metrics.read_text())
    assert [(result["phase"], result["best_epoch"]) for result in metrics["phases"]] == [(1, 1)]
    assert {candidate["weights"] for candidate in metrics["phases"][0]["candidates"]} == {
        "best epoch", "best epoch, BatchNorm re-estimated",
    }  # fmt: skip
    assert np.isfinite(metrics["loss"])
    for weight in load_model(run.model)[0].get_weights():
        assert np.isfinite(weight).all()


def test_a_training_that_diverges_at_once_ends_with_a_word(few_digits: Path, tmp_path: Path) -> None:
    base = settings(few_digits, "rnn", epochs=(2, 0))
    phases = (base.phases[0].model_copy(update={"learning_rate": 1e38}), base.phases[1])
    with pytest.raises(RunError, match=r"phase 1: no epoch had a finite loss; .* a smaller --phase1-lr than 1e"):
        trainer.train(base.model_copy(update={"phases": phases}), tmp_path, "nan")


def test_an_image_that_vanishes_after_the_check_is_named_with_the_way_to_go_on(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(few_digits, data)
    at_epoch(monkeypatch, (1, 1), lambda _: shutil.rmtree(data))
    with pytest.raises(DataError, match=r"\.png: can't be read.*put it back.*hybrid-train --resume --name gone"):
        trainer.train(settings(data, "rnn", epochs=(9, 0)), tmp_path, "gone")


def test_half_precision_saves_float32_and_ends_with_the_training(few_digits: Path, tmp_path: Path) -> None:
    import keras

    run = trainer.train(settings(few_digits, "cnn", (1, 1), mixed_precision="float16"), tmp_path, "half")
    assert keras.mixed_precision.global_policy().name == "float32"
    model, _ = load_model(run.model)
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype(np.float32)}
    assert json.loads(run.metrics.read_text())["top1"] > 1 / 3


def test_a_checkpoint_that_is_damaged_is_named(run: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    copy.write_json(copy.state, vars(PhaseState(epoch=1, best=1.0, best_epoch=1, weights="phase1-epoch1.weights.h5")))
    (copy.checkpoints / "phase1-epoch1.weights.h5").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"phase1-epoch1\.weights\.h5 is missing or damaged.*start a new one"):
        trainer.resume(copy.path)


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
    """After a stream of batches over 64 files, one over 1,280, 1.3 GB of pixels, takes no more."""
    code = (
        "import sys, resource\nfrom pathlib import Path\n"
        "from hybrid_edge.train.batches import TrainingBatches\nfrom hybrid_edge.train.data import LabelledImage\n"
        "from hybrid_edge.runtime.spec import ModelSpec\n"
        "spec = ModelSpec(image_size=299, class_labels=('0', '3'))\n"
        "for count in (64, 1280):\n"
        "    batches = TrainingBatches([LabelledImage(Path(sys.argv[1]), '0')] * count, spec, 16, seed=0)\n"
        "    for i in range(count // 16): batches[i]\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    image = next((few_digits / "train" / "0").iterdir())
    printed = subprocess.run([sys.executable, "-c", code, image], capture_output=True, check=True).stdout
    before, after = map(int, printed.split())
    assert after - before < 40_000, "KiB more for 20 times the images"


def test_a_seed_gives_the_same_training_twice(few_digits: Path, unbroken: RunFolder, tmp_path: Path) -> None:
    again = trainer.train(settings(few_digits, "rnn", (3, 0), bn_batches=0), tmp_path, "again")
    assert history(again)[0]["loss"] == pytest.approx(history(unbroken)[0]["loss"], rel=1e-4)
