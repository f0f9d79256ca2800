"""A backbone, cells and joins other than the reference's go through a whole training."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from support.models.model_arrays import cnn_arrays_in

from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train import trainer
from hybrid_edge.train.backbones import BACKBONES
from hybrid_edge.train.best_weights import trained_norms
from hybrid_edge.train.checkpoints import EpochRecorder
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import load_model, save_model
from hybrid_edge.train.run_folder import RunFolder
from hybrid_edge.train.training_settings import PHASES, TrainSettings

MOBILE = ModelSpec(
    backbone="mobilenet_v3_small", image_size=32, timesteps=16, sequence_order="patches", cell="gru", rnn_units=8,
    merge="concatenate",
)  # fmt: skip
DIGITS = preset("digits").replace(cell="bilstm", rnn_units=8, rnn_layers=2, rnn_batch_norm=True, merge="add")


@pytest.fixture
def data(few_digits: Path, tmp_path: Path) -> Path:
    """Four images of each class to train on, two to validate."""
    for split, count in (("train", 4), ("val", 2)):
        for folder in (few_digits / split).iterdir():
            (tmp_path / "data" / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, tmp_path / "data" / split / folder.name)
    return tmp_path / "data"


def settings(data: Path, spec: ModelSpec, epochs: tuple[int, int], **fields: Any) -> TrainSettings:
    phases = [
        phase.model_copy(update={"epochs": count, "steps": 1, "batch_size": 6})
        for phase, count in zip(PHASES["xception-lstm"], epochs, strict=True)
    ]
    return TrainSettings.make(data=str(data), spec=spec, phases=phases, bn_batches=2, **fields)


def phases_of(run: RunFolder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run.metrics.read_text())["phases"]
    return found


def test_a_gru_over_patches_beside_a_pretrained_mobilenet_trains_in_both_phases_and_goes_on_after_a_stop(
    data: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = MOBILE.replace(branches="cnn", class_labels=("a", "b"))
    save_model(build_model(alone), alone, tmp_path / "cnn.keras")
    record = EpochRecorder.on_epoch_end

    def stop(recorder: EpochRecorder, epoch: int, logs: dict[str, float] | None = None) -> None:
        if (recorder.state.phase, epoch) == (1, 1):
            raise KeyboardInterrupt
        record(recorder, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(EpochRecorder, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(settings(data, MOBILE, (2, 1), weights=str(tmp_path / "cnn.keras")), tmp_path, "mobile")
    run = trainer.resume(tmp_path / "mobile")
    assert [(row["phase"], row["epoch"]) for row in run.read_history()] == [(1, 1), (1, 2), (2, 1)]
    files = (tmp_path / "cnn.keras", run.checkpoints / "phase1.keras", run.checkpoints / "phase2.keras")
    start, frozen, trained = map(cnn_arrays_in, files)
    assert sum(array.size for array in start.values()) == BACKBONES["mobilenet_v3_small"].parameters
    assert start.keys() == frozen.keys() == trained.keys()
    assert all(np.array_equal(old, frozen[name]) for name, old in start.items())
    assert not all(np.array_equal(old, trained[name]) for name, old in start.items())
    assert 4 * 18 * 576 in {file.stat().st_size for file in (cache / "features").glob("*/rows.float32")}
    first, second = phases_of(run)
    assert len(first["candidates"]) == 1  # nothing that is frozen is re-estimated
    assert "best epoch, BatchNorm re-estimated" in {item["weights"] for item in second["candidates"]}
    assert ModelSpec.from_json(run.spec.read_bytes()) == MOBILE.replace(class_labels=("0", "3", "7"))
    assert {"curves.png", "confusion.png", "classes.png"} <= {path.name for path in run.path.iterdir()}


def test_a_bidirectional_lstm_is_added_to_the_digits_cnn(data: Path, tmp_path: Path) -> None:
    run = trainer.train(settings(data, DIGITS, (1, 1), augment=True), tmp_path, "both-ways")
    assert [(row["phase"], row["epoch"]) for row in run.read_history()] == [(1, 1), (2, 1)]
    model, spec = load_model(run.model)
    assert spec == DIGITS.replace(class_labels=("0", "3", "7"))
    assert model.get_layer("rnn").get_layer("projection").kernel.shape == (16, 128)


def test_a_convnext_has_no_batchnorm_to_re_estimate() -> None:
    described = ModelSpec(backbone="convnext_tiny", image_size=32, branches="cnn", class_labels=("a", "b"))
    assert trained_norms(build_model(described)) == []
