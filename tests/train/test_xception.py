"""The reference way through both phases, with the real Xception at its smallest size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train import trainer
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import load_model, save_model
from hybrid_edge.train.settings import PHASES, TrainSettings

SPEC = ModelSpec(image_size=71, timesteps=71, rnn_units=16)


def test_a_pretrained_xception_is_frozen_in_phase_1_and_trains_in_phase_2(few_digits: Path, tmp_path: Path) -> None:
    alone = SPEC.replace(branches="cnn", class_labels=("a", "b"))
    save_model(build_model(alone), alone, tmp_path / "cnn.keras")
    phases = [phase.model_copy(update={"epochs": 1, "steps": 1}) for phase in PHASES["xception-lstm"]]
    settings = TrainSettings.make(
        data=str(few_digits), spec=SPEC, phases=phases, weights=str(tmp_path / "cnn.keras"), bn_batches=1
    )
    run = trainer.train(settings, tmp_path / "runs", "xception")
    start = load_model(tmp_path / "cnn.keras")[0].get_layer("cnn").get_weights()
    frozen = load_model(run.checkpoints / "phase1.keras")[0].get_layer("cnn").get_weights()
    trained = load_model(run.checkpoints / "phase2.keras")[0].get_layer("cnn").get_weights()
    assert all(np.array_equal(old, new) for old, new in zip(start, frozen, strict=True))
    assert not np.array_equal(start[0], trained[0])
    kept = [result["kept"] for result in json.loads(run.metrics.read_text())["phases"]]
    assert kept[0] == "best epoch"  # nothing that is frozen is re-estimated
    assert len(json.loads(run.metrics.read_text())["phases"][1]["candidates"]) == 2
    assert run.model.stat().st_size < 1.1 * 4 * build_model(SPEC.replace(class_labels=("0", "3", "7"))).count_params()
