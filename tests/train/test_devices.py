"""Several devices: two logical CPUs of a process of its own, as TensorFlow divides a CPU only before it is used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.spec import preset
from hybrid_edge.train import trainer
from hybrid_edge.train.batches import Batches
from hybrid_edge.train.checkpoints import EpochRecorder
from hybrid_edge.train.data import read_list
from hybrid_edge.train.devices import several, training_devices
from hybrid_edge.train.evaluation import evaluate
from hybrid_edge.train.flags import devices_of
from hybrid_edge.train.model_file import load_model
from hybrid_edge.train.run_folder import RunFolder
from hybrid_edge.train.training_settings import PHASES, TrainSettings

ON_TWO = Path(__file__).parent / "on_two_devices.py"


def settings(data: Path) -> TrainSettings:
    """A training without dropout, which differs between one device and several."""
    first, second = PHASES["digits"]
    return TrainSettings.make(
        data=str(data),
        spec=preset("digits", "rnn").replace(image_size=14, timesteps=7, rnn_units=8, rnn_layers=1),
        phases=[first.model_copy(update={"epochs": 3, "batch_size": 8}), second],
        seed=3,
        bn_batches=4,
        class_weights="balanced",
    )


@pytest.fixture(scope="module")
def data(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of unequal size, and in validation a number of images that is odd."""
    folder = tmp_path_factory.mktemp("data")
    for split, counts in {"train": (24, 20, 12), "val": (6, 6, 5)}.items():
        for source, count in zip(sorted((few_digits / split).iterdir()), counts, strict=True):
            (folder / split / source.name).mkdir(parents=True)
            for image in sorted(source.iterdir())[:count]:
                shutil.copy(image, folder / split / source.name)
    return folder


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The training on one device; beside it ``two``, as it was after the first of three epochs."""
    runs = tmp_path_factory.mktemp("runs")
    original = EpochRecorder.on_epoch_end

    def on_epoch_end(self: EpochRecorder, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == 1:
            shutil.copytree(self.training.run.path, runs / "two")
        original(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochRecorder, "on_epoch_end", on_epoch_end)
        return trainer.train(settings(data), runs, "one")


@pytest.fixture(scope="module")
def told(one: RunFolder) -> Any:
    """What a process tells that ended the training ``two`` on two devices."""
    command = [sys.executable, ON_TWO, one.path.with_name("two")]
    ran = subprocess.run(command, capture_output=True, check=False, text=True)
    assert ran.returncode == 0, ran.stderr
    return {"stderr": ran.stderr, **json.loads(ran.stdout)}


def test_a_training_goes_on_on_two_devices_as_on_one(told: Any, one: RunFolder) -> None:
    two = RunFolder(one.path.with_name("two"))
    assert "training on 2 devices, each takes its part of a batch: CPU:0, CPU:1" in told["stderr"]
    rows, expected = two.read_history(), one.read_history()
    assert len(rows) == len(expected) == 3
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        values = [[row[key] for row in both] for both in (rows, expected)]
        np.testing.assert_allclose(*values, rtol=2e-3, err_msg=key)


def test_two_devices_estimate_batchnorm_as_one_and_leave_an_ordinary_file(told: Any, one: RunFolder) -> None:
    two = RunFolder(one.path.with_name("two"))
    split, whole = (json.loads(run.metrics.read_text()) for run in (two, one))
    pairs = list(zip(split["phases"][0]["candidates"], whole["phases"][0]["candidates"], strict=True))
    assert len(pairs) >= 2
    for candidate, expected in pairs:
        assert candidate["loss"] == pytest.approx(expected["loss"], rel=5e-3), candidate["weights"]
    model, spec = load_model(two.model)
    batches = Batches(read_list(two.images("validation")), spec, 5)
    assert evaluate(model, batches).loss == pytest.approx(split["loss"], rel=1e-5)


def test_the_rows_of_a_batch_that_can_not_be_split_come_back_once_and_in_order(told: Any) -> None:
    assert told["rows"] == {"1": True, "5": True, "8": True}


def test_a_step_that_overflowed_on_the_second_device_is_left_out(told: Any) -> None:
    assert told["overflow"] == {"second": True, "neither": False}


def test_dropout_differs_between_the_devices(told: Any) -> None:
    first, second = told["dropped"]
    assert first != second


def test_a_batch_that_can_not_be_shared_evenly_is_refused_with_those_that_can(told: Any) -> None:
    assert "expected a batch that 2 devices can share evenly, found 7 images in phase 2" in told["refused"]
    assert "--phase2-batch 6 or 8" in told["refused"]


def test_all_of_one_device_says_so_and_more_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with training_devices("all", ()):
        assert not several()
    assert "--devices all: found no GPU; training on CPU:0 alone" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--devices 2: expected 2 GPUs, found no GPU"), training_devices(2, ()):
        pass


@pytest.mark.parametrize(("text", "meaning"), [(None, None), ("all", "all"), ("1", 1), ("4", 4)])
def test_devices_are_all_or_a_number(text: str | None, meaning: int | str | None) -> None:
    assert devices_of(text) == meaning


@pytest.mark.parametrize("text", ["0", "-1", "0,1", "GPU:0", ""])
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected all or a number of GPUs, found"):
        devices_of(text)
