import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from support.machines.commands import command as run_command

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.spec import preset
from hybrid_edge.runtime.storage import write_json
from hybrid_edge.train import command
from hybrid_edge.train.run_folder import RunFolder
from hybrid_edge.train.training_settings import TrainSettings

Settings = Callable[..., TrainSettings]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    from hybrid_edge.train import trainer

    seen: list[TrainSettings] = []
    monkeypatch.setattr(trainer, "train", lambda settings, *_: seen.append(settings))
    monkeypatch.setattr(command, "show", lambda _: None)

    def given(**flags: object) -> TrainSettings:
        command.train(Path("photos"), **flags)  # type: ignore[arg-type]
        return seen[-1]

    return given


def test_without_flags_it_is_the_reference_training(settings: Settings) -> None:
    reference = settings()
    assert reference.spec == preset("xception-lstm")
    assert (reference.weights, reference.augment, reference.workers) == ("imagenet", False, 2)
    assert [
        (it.optimizer, it.learning_rate, it.batch_size, it.steps, it.epochs, it.monitor, it.freeze_cnn)
        for it in reference.phases
    ] == [("rmsprop", 1e-3, 32, 140, 30, "val_loss", True), ("adam", 1e-4, 16, 140, 30, "val_accuracy", False)]


@pytest.mark.parametrize(("branches", "epochs"), [("cnn", 16), ("hybrid", 16), ("rnn", 24)])
def test_digits_train_in_one_phase_whose_rate_falls_and_the_rnn_alone_takes_more_passes(
    settings: Settings, branches: str, epochs: int
) -> None:
    digits = settings(preset_name="digits", branches=branches)
    first, second = digits.phases
    assert (first.epochs, first.learning_rate, first.schedule, first.steps) == (epochs, 4e-3, "cosine", 0)
    assert second.epochs == 0
    assert (digits.weights, digits.augment, digits.workers) == ("none", True, 1)


def test_random_weights_freeze_nothing_unless_told_to(settings: Settings) -> None:
    assert not settings(weights="none").phases[0].freeze_cnn
    assert settings(weights="none", phase1_freeze=True).phases[0].freeze_cnn
    assert not settings(weights="imagenet", phase1_freeze=False).phases[0].freeze_cnn


def test_every_setting_is_a_flag(settings: Settings) -> None:
    chosen = settings(
        image_size=71, timesteps=71, rnn_units=9, rnn_layers=3, resize="letterbox", weights="none",
        phase1_epochs=4, phase1_steps=0, phase1_monitor="val_top5",
        phase2_lr=0.5, phase2_batch=7, phase2_optimizer="sgd", augment=True, workers=3,
    )  # fmt: skip
    assert (chosen.spec.image_size, chosen.spec.rnn_units, chosen.spec.rnn_layers) == (71, 9, 3)
    assert chosen.spec.resize == "letterbox"
    first, second = chosen.phases
    assert (first.epochs, first.steps, first.monitor) == (4, 0, "val_top5")
    assert (second.learning_rate, second.batch_size, second.optimizer) == (0.5, 7, "sgd")
    assert (chosen.augment, chosen.workers) == (True, 3)
    assert not settings(preset_name="digits", augment=False).augment


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, (224, 28, "xception", "imagenet", True)),
        ({"sequence": "patches"}, (224, 49, "xception", "imagenet", True)),
        ({"sequence": "patches", "image_size": 96}, (96, 36, "xception", "imagenet", True)),
        ({"sequence": "patches", "image_size": 96, "timesteps": 16}, (96, 16, "xception", "imagenet", True)),
        ({"image_size": 96, "timesteps": 96, "weights": "none"}, (96, 96, "xception", "none", False)),
        ({"backbone": "densenet121"}, (224, 28, "torch", "imagenet", True)),
        ({"backbone": "digits"}, (28, 28, "xception", "none", False)),
        ({"preset_name": "digits"}, (224, 28, "xception", "imagenet", False)),
    ],
    ids=str,
)
def test_a_backbone_brings_its_image_size_scaling_and_weights(
    settings: Settings, flags: dict[str, object], expected: tuple[int, int, str, str, bool]
) -> None:
    chosen = settings(**{"backbone": "mobilenet_v2", "cell": "gru", "merge": "concatenate", **flags})
    spec = chosen.spec
    assert (spec.cell, spec.merge) == ("gru", "concatenate")
    assert (spec.image_size, spec.timesteps, spec.scaling, chosen.weights, chosen.phases[0].freeze_cnn) == expected


def test_the_rnn_alone_needs_no_pretrained_weights(settings: Settings) -> None:
    assert settings(branches="rnn").weights == "none"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 71}, r"71² = 5041 is not a multiple of 23; nearest that are: 1, 71"),
        ({"phase2_epochs": -1}, r"^phase 2: epochs: [^\n]*, found -1$"),
        ({"preset_name": "digits", "weights": "imagenet"}, "no ImageNet weights exist for the digits backbone"),
        ({"branches": "rnn", "weights": "imagenet"}, "which --branches rnn leaves out"),
        ({"phase1_epochs": 0, "phase2_epochs": 0}, "nothing would be trained"),
        ({"image_size": 74, "sequence": "patches"}, "5476 is not a multiple of 23; nearest that are: 1, 2, 4, 37"),
        ({"backbone": "mobilenet_v2", "image_size": 28, "timesteps": 28}, "needs image_size >= 32, found 28"),
        ({"predict_for": "rpi5"}, "chooses the devices of --list"),
        ({"list_models": True}, r"--list shows every backbone as Keras has it; leave out DATA"),
    ],
)
def test_settings_that_cannot_be_are_wrong_usage(settings: Settings, flags: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(**flags)


def test_files_are_remembered_by_their_whole_path_for_resume_from_another_folder(settings: Settings) -> None:
    chosen = settings(weights="cnn.keras")
    assert chosen.weights == str(Path.cwd() / "cnn.keras")
    assert chosen.data == str(Path.cwd() / "photos")


def test_a_setting_beside_resume_is_refused_instead_of_ignored() -> None:
    with pytest.raises(UsageError, match="leave out DATA, --phase2-epochs"):
        command.train(Path("photos"), phase2_epochs=50, resume=True)


def test_the_table_shows_class_names_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder.create(tmp_path, "[bold]", "x")
    classes = [{"label": "[red]car", "images": 2, "top1": 0.5, "top5": 1.0}]
    totals = {"validation_images": 2, "top1": 0.5, "top5": 1.0, "seconds": 60.0, "peak_memory_mib": 9.0}
    write_json(run.metrics, {**totals, "classes": classes})
    command.show(run)
    printed = capsys.readouterr().out
    assert "[red]car" in printed
    assert str(run.model) in printed


def test_faults_in_the_data_end_it_before_training_with_a_message(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(few_digits, data)
    shutil.copytree(data / "val" / "0", data / "val" / "8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hybrid-train", str(data), "--preset", "digits"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert "val/ has classes that train/ lacks: '8'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_no_data_is_wrong_usage(tmp_path: Path) -> None:
    result = run_command("hybrid-train", cwd=tmp_path)
    assert result.returncode == 2
    assert "expected DATA" in result.stderr


def test_a_training_by_command_ends_with_the_table_and_names_bad_images(few_digits: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(few_digits, data)
    (data / "train" / "3" / "broken.png").write_bytes(b"not a png")
    options = ["--preset", "digits", "--branches", "cnn", "--phase1-epochs", 1, "--phase2-epochs", 0, "--name", "one"]
    result = run_command("hybrid-train", data, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "broken.png" in result.stderr
    assert "" not in result.stderr.splitlines(), "a log has no empty lines"
    assert "top-5" in result.stdout
    assert "next: hybrid-export" in result.stdout
    assert "cuda" not in result.stderr.lower()
    run = tmp_path / "runs" / "latest"
    assert "broken.png" in json.loads((run / "skipped.json").read_text())[0]["path"]
    assert "broken.png" not in (run / "train.txt").read_text()
