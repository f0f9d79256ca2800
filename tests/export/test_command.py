from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.machines.commands import Ended, call_command
from support.machines.commands import command as run_command
from support.models.bundles import make_bundle

from hybrid_edge.export import command, exporter
from hybrid_edge.export.explain import sensitivity as sensitivity_report
from hybrid_edge.export.export_request import ExportRequest, make_request
from hybrid_edge.export.exporter import export
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.errors import ModelFileError, UsageError
from hybrid_edge.runtime.storage import write_json
from hybrid_edge.train.data import LabelledImage, write_list
from hybrid_edge.train.run_folder import RunFolder

if TYPE_CHECKING:
    from support.models.whole import Whole

Main = Callable[..., Ended]
Asked = tuple[object, ...]


@pytest.fixture
def asked(whole: Whole, tmp_path: Path) -> Asked:
    """What every export of the digits stand-in names, into a bundle of its own."""
    return (whole.request.model, "--images", whole.photos, "--calib", whole.calibration, "--out", tmp_path / "b")


def without_tensorflow(*commands: Sequence[object], prepare: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with each of these arguments, in one fresh process that must not load what exports need.

    Each command's exit code is a line of its own on stderr; ``prepare`` is code that runs first.
    """
    script = (
        "import json, sys; from hybrid_edge.export.command import main\n"
        f"{prepare}\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['hybrid-export', *words]\n"
        "    try: main()\n"
        "    except SystemExit as ended: print(ended.code or 0, file=sys.stderr)\n"
        "assert not {'tensorflow', 'keras', 'tf2onnx', 'onnx'} & set(sys.modules)"
    )
    words = json.dumps([[str(word) for word in arguments] for arguments in commands])
    result = subprocess.run([sys.executable, "-c", script, words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def run(exported_digits: Any, photos: Path, tmp_path: Path) -> RunFolder:
    """A run folder as a training leaves it."""
    run = RunFolder.create(tmp_path / "runs", "first", "hybrid")
    run.model.write_bytes(exported_digits.file.read_bytes())
    listed = [LabelledImage(path, path.parent.name) for path in sorted(photos.rglob("*.png"))]
    write_list(run.images("validation"), listed[:10])
    write_list(run.images("calibration"), listed[10:])
    write_json(run.metrics, {"top1": 0.5})
    return run


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """The command in this process, where TensorFlow has started: its exit code, stdout and stderr."""
    return partial(call_command, "hybrid-export", command.main, monkeypatch, capsys)


def test_without_arguments_the_newest_run_becomes_a_bundle(run: RunFolder, tmp_path: Path) -> None:
    result = run_command("hybrid-export", "--pack", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    bundle = Bundle.open(run.bundle)
    assert bundle.manifest.provenance.run == "first"
    assert bundle.manifest.provenance.metrics == {"top1": 0.5}
    assert (run.path / "bundle.tar").is_file()
    for expected in ("fp32 for cpu: CNN: 3/3 convolutions FP32", "top-1 agreement", "peak memory", "passed"):
        assert expected in result.stdout
    assert f"report {run.path.resolve()}/bundle-report" in result.stdout
    assert f"next: hybrid-infer --bundle {run.path.resolve()}/bundle.tar" in result.stdout
    for step in ("start TensorFlow", "convert to ONNX", "gate fp32 for cpu, cuda, tensorrt: 10 images"):
        assert f" s  {step}" in result.stderr
    for noise in ("oneDNN", "cuda drivers", "retracing"):
        assert noise not in result.stderr


def test_a_damaged_calibration_ends_with_3_after_what_passed_was_written(
    whole: Whole, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Main
) -> None:
    monkeypatch.setattr(exporter, "prepare", lambda *_: whole.damaged(8))
    code, out, err = main(*asked, "--fp32", "--int8", "--recurrent", "lstm")
    assert code == 3
    assert {item.precision for item in Bundle.open(tmp_path / "b").manifest.variants} == {"fp32"}
    assert "refused" in out
    assert "accuracy drop" in out
    assert "refused: int8-cpu is not the Keras model, on 16 images" in err
    last = err.splitlines()[-1]
    assert last.startswith("error: 2 of 5 variants refused: int8-cpu, int8-tensorrt; written to the bundle: fp32-cpu")
    assert len(last) < 400
    assert "trtexec" not in out, "engines are built from what is whole"


def test_the_bundle_in_every_precision_runs_by_name_and_by_itself(whole: Whole) -> None:
    image = next(whole.photos.rglob("*.png"))
    for precision, taken in (("int8", "int8-cpu-unrolled (int8)"), ("auto", "")):
        asked = (image, "--bundle", whole.result.bundle, "--backend", "cpu", "--precision", precision, "--json")
        result = run_command("hybrid-infer", *asked)
        assert result.returncode == 0, result.stderr
        assert f"variant {taken}" in result.stderr
        assert "golden check: 8 examples" in result.stderr
        assert json.loads(result.stdout)["labels"][0] == image.parent.name


def test_options_reach_the_request(whole: Whole, asked: Asked, monkeypatch: pytest.MonkeyPatch, main: Main) -> None:
    seen: list[ExportRequest] = []

    def stop(request: ExportRequest, **_: object) -> None:
        seen.append(request)
        raise UsageError("enough")

    monkeypatch.setattr(exporter, "export", stop)
    assert main(*asked[:-2], "--fp16", "--int8").code == 2
    options = "--gate-images 9 --method entropy --recurrent unrolled --max-drop 1.5 --auto --profile 1,2,4"
    assert main(*asked[:-2], "--int8", *options.split(), "--workspace", 64, "--out", "elsewhere").code == 2
    plain, full = seen
    assert plain.settings == whole.request.settings.__class__(precisions=("fp16", "int8"))
    assert plain.out == whole.request.model.parent / "bundle"
    assert len(plain.calibration) == len(whole.request.calibration)
    settings = full.settings
    assert (settings.precisions, settings.method, settings.recurrent) == (("int8",), "entropy", "unrolled")
    assert (settings.max_drop, settings.give_back) == (0.015, True)
    assert settings.engine == EngineOptions((1, 2, 4), 64 * 2**20)
    assert len(full.images.images) == 9
    assert (full.out, full.report) == (Path("elsewhere"), Path("elsewhere-report"))


def test_a_run_brings_its_own_calibration_images(run: RunFolder, photos: Path) -> None:
    from hybrid_edge.export.export_request import ExportSettings

    request = make_request(run.path, settings=ExportSettings(precisions=("int8",)))
    assert len(request.calibration) == 6
    assert not {image.path for image in request.calibration} & {image.path for image in request.images.images}
    assert make_request(run.path).calibration == (), "FP32 needs none"


def test_sensitivity_prints_the_table_and_where_the_plot_is(
    whole: Whole, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Main
) -> None:
    images = whole.prepared.images
    few = replace(whole.prepared, images=replace(images, paths=images.paths[:8]))
    monkeypatch.setattr(sensitivity_report, "prepare", lambda *_: few)
    code, out, _ = main(*asked, "--sensitivity")
    assert code == 0
    assert "each layer alone in INT8, 8 images" in out
    assert "rnn/lstm_1" in out
    assert f"plot {tmp_path}/b-report/sensitivity.png" in out
    assert (tmp_path / "b-report/sensitivity.png").is_file()
    assert not (tmp_path / "b").exists()


def test_engines_alone_need_neither_tensorflow_nor_onnx(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", variants=(("fp32", "tensorrt"),))
    no_gpu = (
        "from hybrid_edge.export.bundle import engine_files\n"
        "from hybrid_edge.runtime.errors import BackendUnavailableError\n"
        "def nothing(): raise BackendUnavailableError('no GPU here; install one')\n"
        "engine_files.find_tensorrt = nothing"
    )
    result = without_tensorflow(("--engine-only", bundle), prepare=no_gpu)
    assert result.stderr.endswith("0\n")
    assert result.stdout.startswith("no engine was built for this machine (no GPU here); on the device the first")
    assert result.stdout.count("\n") == 1
    assert "--engine-only bundle" in result.stdout


def test_engines_for_desktop_cards_are_built_with_the_export(
    whole: Whole, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Main
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    monkeypatch.setattr(exporter, "prepare", lambda *_: whole.prepared)
    code, out, err = main(*asked, "--fp16", "--recurrent", "lstm", "--rtx-arch", "sm89")
    assert code == 0, err
    engine = tmp_path / "engines/fp16-tensorrt-rtx-sm89.engine"
    assert f"engine {engine} (fp16-tensorrt, TensorRT-RTX for sm89, not for Jetson" in out
    assert engine.stat().st_size > 100_000
    assert json.loads(engine.with_suffix(".json").read_text())["architecture"] == "sm89"
    assert {path.name for path in engine.parent.iterdir()} == {engine.name, engine.with_suffix(".json").name}


def test_a_kill_while_engines_are_written_leaves_nothing_for_long(tmp_path: Path, main: Main) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    bundle = make_bundle(tmp_path / "bundle", variants=(("fp32", "tensorrt"),))
    folder = tmp_path / "engines"
    folder.mkdir()
    for name in (".fp32-tensorrt-rtx-sm89.engine-a1.tmp", ".fp32-tensorrt-rtx-sm89.json-b2.tmp", "notes.txt"):
        (folder / name).write_bytes(b"torn")
    assert main("--engine-only", bundle, "--rtx-arch", "sm89")[0] == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"fp32-tensorrt-rtx-sm89.engine", "fp32-tensorrt-rtx-sm89.json", "notes.txt"}


def test_wrong_usage_ends_with_2_and_what_to_do_before_tensorflow_starts(whole: Whole, tmp_path: Path) -> None:
    model, images = whole.request.model, whole.photos
    cases = {
        "a model file comes without images; name a folder of real ones": [model],
        "int8 must be calibrated: name a folder": [model, "--images", images, "--int8"],
        "fp16 must be calibrated: name a folder": [model, "--images", images, "--fp16"],
        "--method: expected minmax, entropy, percentile, found 'mse'": [model, "--images", images, "--method", "mse"],
        "--recurrent: expected lstm, unrolled, auto, found 'gru'": [model, "--images", images, "--recurrent", "gru"],
        "sm120, found 'sm87': that is a Jetson Orin": ["--engine-only", tmp_path, "--rtx-arch", "sm87"],
        "MIN,OPT,MAX such as 1,1,8, found '1,8'": [model, "--images", images, "--profile", "1,8"],
        "No such option": ["--int4"],
    }
    result = without_tensorflow(*cases.values())
    answers = [" ".join(text.split()) for text in result.stderr.split("\n2\n")]
    assert len(answers) == len(cases) + 1, result.stderr
    for expected, answer in zip(cases, answers, strict=False):
        assert expected in answer


def test_a_file_that_is_not_ours_is_refused_and_no_bundle_appears(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.keras"
    file.write_bytes(b"PK something")
    with pytest.raises(ModelFileError, match=r"damaged|expected a \.keras or \.h5 of Keras"):
        export(make_request(file, images=photos))
    assert not (tmp_path / "bundle").exists()


def test_help_never_imports_tensorflow() -> None:
    result = without_tensorflow(["--help"])
    assert result.stderr == "0\n"
    assert "Example: hybrid-export --fp16 --int8" in result.stdout
    assert "Example: hybrid-export --engine-only runs/latest/bundle --rtx-arch sm89" in " ".join(result.stdout.split())
