import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from support.models.model_arrays import arrays_in, cnn_arrays_in

from hybrid_edge.runtime.errors import DataError, RunError
from hybrid_edge.runtime.spec import Branches, ModelSpec, preset
from hybrid_edge.runtime.storage import write_json
from hybrid_edge.train import trainer
from hybrid_edge.train.batches import Batches
from hybrid_edge.train.checkpoints import EpochRecorder, TrainingState
from hybrid_edge.train.data import read_list
from hybrid_edge.train.evaluation import evaluate
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import load_model, save_model
from hybrid_edge.train.run_folder import RunFolder
from hybrid_edge.train.training_settings import PHASES, TrainSettings

# SIGKILL inside the write of the second epoch's checkpoint: nothing can clean up
KILLER = """
import json, os, signal, sys
from pathlib import Path
from hybrid_edge.runtime import storage
from hybrid_edge.train import trainer
from hybrid_edge.train.training_settings import TrainSettings
def fsync(descriptor):
    if "phase1-epoch2" in os.readlink(f"/proc/self/fd/{descriptor}"):
        os.kill(os.getpid(), signal.SIGKILL)
storage.os.fsync = fsync
trainer.train(TrainSettings.make(**json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), "broken")
"""


def settings(
    data: Path,
    branches: Branches = "hybrid",
    epochs: tuple[int, int] = (2, 1),
    phase1: dict[str, Any] | None = None,
    phase2: dict[str, Any] | None = None,
    **fields: object,
) -> TrainSettings:
    phases = [
        phase.model_copy(update={"epochs": count, "batch_size": 12, **(changes or {})})
        for phase, count, changes in zip(PHASES["digits"], epochs, (phase1, phase2), strict=True)
    ]
    return TrainSettings.make(
        **{"data": str(data), "spec": preset("digits", branches), "phases": phases, "seed": 3, **fields}
    )


def at_epoch(
    monkeypatch: pytest.MonkeyPatch, moment: tuple[int, int] | None, action: Callable[[EpochRecorder], object]
) -> None:
    """Do something at the end of an epoch, given as phase and epoch, or of each, just before it is recorded."""
    original = EpochRecorder.on_epoch_end

    def on_epoch_end(self: EpochRecorder, epoch: int, logs: dict[str, float] | None = None) -> None:
        if moment in (None, (self.state.phase, epoch + 1)):
            action(self)
        original(self, epoch, logs)

    monkeypatch.setattr(EpochRecorder, "on_epoch_end", on_epoch_end)


def metrics(run: RunFolder) -> Any:
    return json.loads(run.metrics.read_text())


def epochs(run: RunFolder) -> list[tuple[float, float]]:
    return [(row["phase"], row["epoch"]) for row in run.read_history()]


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trainer.train(settings(few_digits), tmp_path_factory.mktemp("project") / "runs", "first")


def test_the_run_folder_holds_what_the_next_commands_need(run: RunFolder) -> None:
    names = {path.name for path in run.path.iterdir()}
    assert {
        "model.keras", "spec.json", "metrics.json", "history.csv", "curves.png", "confusion.png", "classes.png",
        "tensorboard", "train.txt", "validation.txt", "calibration.txt", "settings.json",
    } <= names  # fmt: skip
    assert ModelSpec.from_json(run.spec.read_bytes()).class_labels == ("0", "3", "7")
    assert any((run.tensorboard / "phase1").rglob("events.out.tfevents.*"))
    assert RunFolder.find(runs=run.path.parent).path == run.path
    train, validation, calibration = (
        {image.path for image in read_list(run.images(kind))} for kind in ("train", "validation", "calibration")
    )
    assert (len(train), len(validation)) == (72, 18)
    assert not train & validation
    assert calibration <= train


def test_the_metrics_are_those_of_the_saved_model(run: RunFolder) -> None:
    model, spec = load_model(run.model)
    measured = evaluate(model, Batches(read_list(run.images("validation")), spec, 7))
    assert metrics(run)["top1"] == pytest.approx(measured.top(1))
    assert metrics(run)["loss"] == pytest.approx(measured.loss, rel=1e-4)
    assert [rate["label"] for rate in metrics(run)["classes"]] == ["0", "3", "7"]
    assert metrics(run)["interrupted"] is False


def test_history_has_one_row_an_epoch_of_both_phases_and_shows_that_training_learns(run: RunFolder) -> None:
    assert epochs(run) == [(1, 1), (1, 2), (2, 1)]
    rows = run.read_history()
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert metrics(run)["top1"] > 1 / 3


def test_a_name_that_exists_is_refused_and_the_run_is_left_alone(run: RunFolder, few_digits: Path) -> None:
    before = run.model.read_bytes()
    with pytest.raises(RunError, match="exists; choose another --name"):
        trainer.train(settings(few_digits), run.path.parent, "first")
    assert run.model.read_bytes() == before


def test_a_frozen_cnn_stays_as_it_was_and_its_features_are_cached(
    run: RunFolder, few_digits: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = settings(few_digits, weights=str(run.model), epochs=(1, 0), phase1={"freeze_cnn": True})
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
    for result in metrics(unbroken)["phases"]:
        losses = {candidate["weights"]: candidate["loss"] for candidate in result["candidates"]}
        assert {"best epoch", "best epoch, BatchNorm re-estimated"} <= set(losses)
        if result["phase"] == 1:
            assert losses[result["kept"]] == min(losses.values())


def same_training(resumed: RunFolder, unbroken: RunFolder) -> None:
    assert epochs(resumed) == epochs(unbroken)
    losses = [[row["loss"] for row in run.read_history()] for run in (resumed, unbroken)]
    np.testing.assert_allclose(losses[0][:1], losses[1][:1], rtol=1e-4)  # the seed gives the same training
    np.testing.assert_allclose(*losses, rtol=1e-2)
    assert metrics(resumed)["loss"] == pytest.approx(metrics(unbroken)["loss"], rel=2e-2)
    assert metrics(resumed)["interrupted"] is False


def test_a_run_killed_inside_a_write_ends_resumed_as_the_unbroken_one(
    breakable: TrainSettings, unbroken: RunFolder, tmp_path: Path
) -> None:
    described = tmp_path / "settings.json"
    described.write_text(breakable.model_dump_json())
    killed = subprocess.run([sys.executable, "-c", KILLER, described, tmp_path], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    broken = RunFolder(tmp_path / "broken")
    assert not broken.model.exists()
    assert list(broken.path.rglob(".*")), "the kill came inside a write"
    same_training(trainer.resume(runs=tmp_path), unbroken)
    assert not list(broken.path.rglob(".*"))


def test_ctrl_c_leaves_a_model_to_export_and_a_full_disk_a_word_and_the_run_goes_on_after_both(
    breakable: TrainSettings, unbroken: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: EpochRecorder) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rates: list[float] = []
    at_epoch(monkeypatch, None, lambda recorder: rates.append(float(recorder.model.optimizer.learning_rate)))
    with monkeypatch.context() as patch:
        at_epoch(patch, (1, 2), lambda _: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            trainer.train(breakable, tmp_path, "broken")
    run = RunFolder.find(runs=tmp_path)
    assert metrics(run)["interrupted"] is True
    load_model(run.model)
    with monkeypatch.context() as patch:
        at_epoch(patch, (2, 1), full)
        with pytest.raises(RunError, match=r"stopped: No space left on device; .*hybrid-train --resume --name broken"):
            trainer.resume(runs=tmp_path)
    same_training(trainer.resume(runs=tmp_path), unbroken)
    # half a cosine over phase 1, which goes on where it was; phase 2 is at its own rate
    assert rates == pytest.approx([3e-3, 1e-3, 0, 2e-4], abs=1e-6)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("ahead", "expected"), [(0.1, "phase1.keras"), (-0.1, "phase2-best.keras")])
def test_ctrl_c_keeps_the_phase_before_where_that_was_better(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float, expected: str
) -> None:
    stopped = RunFolder(tmp_path / "stopped")
    shutil.copytree(run.path, stopped.path)
    stopped.metrics.unlink()
    rate = run.read_history()[-1]["val_accuracy"]
    first = {"phase": 1, "kept": "best epoch", "candidates": [{"weights": "best epoch", "top1": rate + ahead}]}
    write_json(stopped.state, vars(TrainingState(phase=2, epoch=1, best=rate, best_epoch=1, results=[first])))
    monkeypatch.setattr(trainer, "prepare_phase", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.resume(stopped.path)
    assert stopped.model.read_bytes() == (stopped.checkpoints / expected).read_bytes()
    assert metrics(stopped)["from"] == expected


def test_ctrl_c_in_measuring_a_run_again_leaves_its_metrics(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.metrics.read_bytes()
    monkeypatch.setattr(trainer, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.resume(run.path)
    assert run.metrics.read_bytes() == before
    load_model(run.model)


def test_weights_that_are_nan_are_never_kept(few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their accuracy is a number, and NaN is less than no other loss."""

    def poison(recorder: EpochRecorder) -> None:
        recorder.state = replace(recorder.state, best=-1.0)  # epoch 1 stays the best
        for variable in recorder.model.trainable_variables:
            variable.assign(variable * float("nan"))

    at_epoch(monkeypatch, (1, 2), poison)
    diverging = settings(few_digits, "rnn", bn_batches=2, phase2={"learning_rate": 1e38})
    run = trainer.train(diverging, tmp_path, "nan")
    assert [(result["phase"], result["best_epoch"]) for result in metrics(run)["phases"]] == [(1, 1)]
    assert {candidate["weights"] for candidate in metrics(run)["phases"][0]["candidates"]} == {
        "best epoch", "best epoch, BatchNorm re-estimated",
    }  # fmt: skip
    assert np.isfinite(metrics(run)["loss"])
    for weight in load_model(run.model)[0].get_weights():
        assert np.isfinite(weight).all()


def test_classes_count_alike_in_both_phases_and_after_a_resume(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    shutil.copytree(few_digits, tmp_path / "data")
    for image in sorted((tmp_path / "data/train/7").iterdir())[:12]:
        image.unlink()
    weights, fit = [], keras.Model.fit

    def spy(*given: Any, **named: Any) -> Any:
        weights.append(named["class_weight"])
        return fit(*given, **named)

    monkeypatch.setattr(keras.Model, "fit", spy)
    balanced = settings(tmp_path / "data", "rnn", epochs=(1, 1), class_weights="balanced")
    with monkeypatch.context() as patch:
        at_epoch(patch, (2, 1), interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(balanced, tmp_path, "unequal")
    run = trainer.resume(tmp_path / "unequal")
    expected = {0: 60 / (3 * 24), 1: 60 / (3 * 24), 2: 60 / (3 * 12)}
    assert weights == [pytest.approx(expected)] * 3
    assert list(metrics(run)["class_weights"].values()) == pytest.approx(list(expected.values()))


def test_a_training_that_diverges_at_once_ends_with_a_word(few_digits: Path, tmp_path: Path) -> None:
    diverging = settings(few_digits, "rnn", epochs=(2, 0), phase1={"learning_rate": 1e38})
    with pytest.raises(RunError, match=r"phase 1: no epoch had a finite loss; .* a smaller --phase1-lr than 1e"):
        trainer.train(diverging, tmp_path, "nan")


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

    steps = {"steps": 3}  # a CPU takes seconds for each
    half = settings(few_digits, "cnn", (1, 1), steps, steps, mixed_precision="float16")
    run = trainer.train(half, tmp_path, "half")
    assert keras.mixed_precision.global_policy().name == "float32"
    model, _ = load_model(run.model)
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype(np.float32)}
    assert metrics(run)["top1"] > 1 / 3


def test_a_checkpoint_that_is_damaged_is_named(run: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    state = TrainingState(epoch=1, best=1.0, best_epoch=1, weights="phase1-epoch1.weights.h5")
    write_json(copy.state, vars(state))
    (copy.checkpoints / state.weights).write_bytes(b"torn")
    with pytest.raises(RunError, match=r"phase1-epoch1\.weights\.h5 is missing or damaged.*start a new one"):
        trainer.resume(copy.path)


def test_resuming_a_finished_run_changes_nothing_and_none_is_refused(run: RunFolder, tmp_path: Path) -> None:
    before, top1 = epochs(run), metrics(run)["top1"]
    trainer.resume(run.path)
    assert (epochs(run), metrics(run)["top1"]) == (before, top1)
    with pytest.raises(RunError, match="expected a run folder"):
        trainer.resume(runs=tmp_path)


def test_memory_does_not_grow_with_the_number_of_images(few_digits: Path) -> None:
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


XCEPTION_PARAMETERS = 20_861_480  # parameters of Xception without its top
XCEPTION = ModelSpec(image_size=71, timesteps=71, rnn_units=16)


def test_a_pretrained_xception_is_frozen_in_phase_1_and_trains_in_phase_2(few_digits: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count in (("train", 4), ("val", 2)):  # Xception reads each of them several times
        for folder in (few_digits / split).iterdir():
            (data / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, data / split / folder.name)
    alone = XCEPTION.replace(branches="cnn", class_labels=("a", "b"))
    save_model(build_model(alone), alone, tmp_path / "cnn.keras")
    phases = [phase.model_copy(update={"epochs": 1, "steps": 1}) for phase in PHASES["xception-lstm"]]
    settings = TrainSettings.make(
        data=str(data), spec=XCEPTION, phases=phases, weights=str(tmp_path / "cnn.keras"), bn_batches=1
    )
    run = trainer.train(settings, tmp_path / "runs", "xception")
    start, frozen, trained = map(
        cnn_arrays_in, (tmp_path / "cnn.keras", run.checkpoints / "phase1.keras", run.checkpoints / "phase2.keras")
    )
    assert sum(array.size for array in start.values()) == XCEPTION_PARAMETERS
    assert start.keys() == frozen.keys() == trained.keys()
    assert all(np.array_equal(old, frozen[name]) for name, old in start.items())
    kernel = next(name for name, old in start.items() if old.ndim == 4)
    assert not np.array_equal(start[kernel], trained[kernel])
    first, second = metrics(run)["phases"]
    assert first["kept"] == "best epoch"  # nothing that is frozen is re-estimated
    assert len(second["candidates"]) == 2
    arrays = sum(array.nbytes for array in arrays_in(run.model).values())
    assert arrays == 4 * (
        XCEPTION_PARAMETERS + 4 * 16 * (71 + 16 + 1) + 4 * 16 * (16 + 16 + 1) + (16 + 1) * 2048 + (2048 + 1) * 3
    )
    assert run.model.stat().st_size < 1.1 * arrays
