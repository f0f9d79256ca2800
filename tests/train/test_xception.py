"""The reference way through both phases, with the real Xception at its smallest size."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tensorflow")

from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train import trainer
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import save_model
from hybrid_edge.train.training_settings import PHASES, TrainSettings

CNN = 20_861_480  # parameters of Xception without its top
SPEC = ModelSpec(image_size=71, timesteps=71, rnn_units=16)


def test_a_pretrained_xception_is_frozen_in_phase_1_and_trains_in_phase_2(few_digits: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count in (("train", 4), ("val", 2)):  # Xception reads each of them several times
        for folder in (few_digits / split).iterdir():
            (data / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, data / split / folder.name)
    alone = SPEC.replace(branches="cnn", class_labels=("a", "b"))
    save_model(build_model(alone), alone, tmp_path / "cnn.keras")
    phases = [phase.model_copy(update={"epochs": 1, "steps": 1}) for phase in PHASES["xception-lstm"]]
    settings = TrainSettings.make(
        data=str(data), spec=SPEC, phases=phases, weights=str(tmp_path / "cnn.keras"), bn_batches=1
    )
    run = trainer.train(settings, tmp_path / "runs", "xception")
    start, frozen, trained = map(
        cnn_weights,
        (tmp_path / "cnn.keras", run.checkpoints / "phase1.keras", run.checkpoints / "phase2.keras"),
    )
    assert start.keys() == frozen.keys() == trained.keys()
    assert all(np.array_equal(old, frozen[name]) for name, old in start.items())
    kernel = next(name for name, old in start.items() if old.ndim == 4)
    assert not np.array_equal(start[kernel], trained[kernel])
    kept = [result["kept"] for result in json.loads(run.metrics.read_text())["phases"]]
    assert kept[0] == "best epoch"  # nothing that is frozen is re-estimated
    assert len(json.loads(run.metrics.read_text())["phases"][1]["candidates"]) == 2
    arrays = sum(array.nbytes for array in weights(run.model).values())
    assert arrays == 4 * (CNN + 4 * 16 * (71 + 16 + 1) + 4 * 16 * (16 + 16 + 1) + (16 + 1) * 2048 + (2048 + 1) * 3)
    assert run.model.stat().st_size < 1.1 * arrays


def weights(file: Path) -> dict[str, npt.NDArray[np.float32]]:
    """All arrays of a model file by their names in it: building the model for them takes seconds."""
    found: dict[str, npt.NDArray[np.float32]] = {}

    def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with zipfile.ZipFile(file) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as content:
        content.visititems(take)
    return found


def cnn_weights(file: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The first nested model's: the CNN branch's."""
    found = {name: array for name, array in weights(file).items() if name.startswith("layers/functional/")}
    assert sum(array.size for array in found.values()) == CNN
    return found
