import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.live.run import COMMAND, LiveRun
from support.machines.commands import Ended
from support.models.bundles import change_manifest, encode, make_bundle, sample_image

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime import console as terminal
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.commands import infer as command
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.progress import Reporter, make_reporter
from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.infer_request import InferRequest
from hybrid_edge.runtime.manifest import Temperature
from hybrid_edge.runtime.outputs import result_lines
from hybrid_edge.runtime.sources import camera
from hybrid_edge.runtime.sources.camera import Camera, CameraFormat

KEYS = {"source", "frame", "labels", "probabilities", "preprocess_ms", "inference_ms"}
ENGINE = ("--profile", "1,2,4", "--workspace", 512)


Infer = Callable[..., Ended]


def set_temperatures(folder: Path, *values: float | None) -> None:
    """Give the variants of a bundle temperatures, in their order."""
    variants = Bundle.open(folder).manifest.variants
    found = [
        None if value is None else Temperature(value=value, images=1000, error_before=0.2, error_after=0.02)
        for value in values
    ]
    changed = (item.model_copy(update={"temperature": own}) for item, own in zip(variants, found, strict=True))
    change_manifest(folder, variants=tuple(changed))


@pytest.fixture
def infer(folder: Path, call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> Infer:
    """Calls the command in a folder where the bundle is found by default."""
    monkeypatch.chdir(folder.parent)
    return partial(call, "hybrid-infer", command.main)


def test_a_folder_becomes_a_table_on_stdout_and_the_rest_is_on_stderr(infer: Infer, photos: Path) -> None:
    done = infer(photos)
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == [str(photos / f"img{n}.png") for n in range(12)]
    assert re.search(r"backend: ONNX Runtime \S+ on CPU, variant fp32-cpu \(fp32\)", done.err)
    assert "golden check: 8 examples" in done.err
    assert "12 classified in" in done.err


def test_the_golden_examples_run_again_on_check_alone(infer: Infer, photos: Path) -> None:
    image = photos / "img0.png"
    assert re.search(r"golden check: 8 examples, .*\), \d+ ms", infer(image, "--check").err)
    assert re.search(r"golden check: 8 examples, .*\), at an earlier start", infer(image).err)
    assert re.search(r"golden check: 8 examples, .*\), \d+ ms", infer(image, "--check").err)
    assert "golden check: left out" in infer(image, "--no-check").err


@pytest.mark.parametrize(
    ("source", "check", "expected"),
    [
        ("photos", None, None),
        ("photos", True, True),
        ("rtsp://camera/a", None, True),
        ("/dev/video0", None, True),
        ("/dev/video0", False, False),
    ],
)
def test_a_live_run_is_proven_at_each_start(source: str, check: bool | None, expected: bool | None) -> None:
    assert InferRequest((source,), check=check).checked is expected


def test_json_gives_one_object_a_line_that_agrees_with_the_classifier(infer: Infer, photos: Path, folder: Path) -> None:
    done = infer(photos, "--json", "--top-k", 3)
    assert done.code == 0
    assert all(set(line) == KEYS for line in done.lines)
    with Classifier.load(folder) as classifier:
        for line in done.lines:
            (expected,) = classifier.predict([str(line["source"])])
            labels, probabilities = zip(*expected.top(3), strict=True)
            assert line["labels"] == list(labels)
            assert line["probabilities"] == pytest.approx(probabilities, abs=1e-5)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_unreadable_files_are_named_and_counted_and_the_code_is_1(infer: Infer, photos: Path, form: list[str]) -> None:
    (photos / "img5.png").write_bytes(b"damaged")
    (photos / "img7.png").write_bytes(b"")
    done = infer(photos, *form)
    assert done.code == 1
    assert f"unreadable: {photos / 'img5.png'}: not an image that OpenCV reads, or damaged" in done.err
    assert f"unreadable: {photos / 'img7.png'}: the file is empty" in done.err
    assert "2 could not be read" in done.err
    assert "10 classified" in done.err
    if form:
        assert [n for n, line in enumerate(done.lines) if "error" in line] == [5, 7]
        assert set(done.lines[5]) == {"source", "frame", "error"}


def test_all_files_unreadable_is_not_a_crash(infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"damaged")
    done = infer(tmp_path / "bad.png")
    assert (done.code, done.out) == (1, "")


def test_settings_reach_the_classifier(infer: Infer, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    real = Classifier.load

    def load(path: Path | None, **settings: object) -> Classifier:
        seen.update(settings)
        return real(path, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "load", load)
    done = infer(photos, "--batch", 3, "--backend", "cpu", "--precision", "fp32", "--threads", 2, "--no-check", *ENGINE)
    assert done.code == 0
    assert isinstance(seen.pop("reporter"), Reporter)
    assert seen == {
        "batch_size": 3,
        "backend": "cpu",
        "precision": "fp32",
        "threads": 2,
        "check": False,
        "calibrated": False,
        "engine": EngineOptions((1, 2, 4), 512 * 2**20),
    }
    assert "golden check: left out" in done.err


def test_calibrated_rows_have_the_softmax_at_the_variants_temperature(infer: Infer, photos: Path, folder: Path) -> None:
    refused = infer(photos, "--calibrated")
    assert refused.code == 2
    assert (
        "--calibrated: expected a temperature with fp32-cpu, found none in the bundle; export it again" in refused.err
    )
    set_temperatures(folder, 3.0)
    done = infer(photos, "--json", "--calibrated", "--min-probability", 0.5)
    assert "calibrated: probabilities at the temperature 3\n" in done.err
    assert "golden check: 8 examples" in done.err
    with Classifier.load(folder) as plain, Classifier.load(folder, calibrated=True) as classifier:
        assert plain.temperature is None
        for line in done.lines:
            (own,), (expected,) = plain.predict([str(line["source"])]), classifier.predict([str(line["source"])])
            powers = np.exp((own.logits.astype(np.float64) - own.logits.max()) / 3)
            np.testing.assert_allclose(expected.probabilities, powers / powers.sum(), rtol=1e-5)
            np.testing.assert_array_equal(expected.logits, own.logits)
            assert line["labels"] == [label for label, _ in expected.top(5)]
            assert line["probabilities"] == pytest.approx([value for _, value in expected.top(5)], abs=1e-5)
            assert line["answer"] == (expected.label if expected.probability >= 0.5 else None)
    assert len({line["answer"] for line in done.lines} & {None}) == 1


def test_a_variant_without_a_temperature_names_those_that_have_one(folder: Path) -> None:
    two = make_bundle(folder.with_name("two"), variants=(("fp32", "cpu"), ("fp32", "tensorrt")))
    set_temperatures(two, None, 2.0)
    with pytest.raises(UsageError, match="with fp32-cpu, found one with fp32-tensorrt alone; export it again"):
        Classifier.load(two, backend="cpu", calibrated=True)


def test_the_builders_bar_takes_the_spinners_place(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(terminal, "status", console)
    with terminal.waiting("opening the bundle") as stop:
        reporter = make_reporter(stop)
        reporter.say("building an engine")
        with reporter.show() as bar:
            bar.start("Building engine", None, 6)
            bar.finish("Building engine")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "building an engine" in shown
    assert shown.rindex("opening the bundle") < shown.rindex("Building engine")


def test_an_engine_that_was_passed_over_is_named(infer: Infer, photos: Path, tmp_path: Path) -> None:
    both = make_bundle(tmp_path / "both", variants=(("fp32", "cuda"), ("fp32", "cpu")))
    assert "passed over cuda: " in infer(photos, "--bundle", both).err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.png"], 1, "missing.png: expected a file, a folder or a glob"),
        (["IMAGE", "--snapshots", "kept"], 2, "--snapshots DIR and --when"),
        (["IMAGE", "--width", "640"], 2, "expected a width and a height together"),
        (["IMAGE", "--hang-timeout", "0"], 2, "--hang-timeout"),
        (["IMAGE", "--hang-timeout", "inf"], 2, "less than or equal to 3600"),
        (["IMAGE", "--latest", "--max-wait", "1e15"], 2, "less than or equal to 3600000"),
        (["IMAGE", "--fps", "0"], 2, "greater than or equal to 0.01"),
        (["IMAGE", "--smooth", "1e9"], 2, "less than or equal to 3600"),
        (["IMAGE", "--min-probability", "1.1"], 2, "--min-probability"),
        (["IMAGE", "--stable", "-1"], 2, "--stable"),
        (["IMAGE", "--batch", "100000000"], 2, "less than or equal to 4096"),
        (["IMAGE", "--threads", "100000"], 2, "less than or equal to 1024"),
        (["IMAGE", "--backend", "tpu"], 2, "expected a backend of auto"),
        (["IMAGE", "--backend", "tensorrt"], 1, "any precision for tensorrt, found fp32 for cpu"),
        (["IMAGE", "--profile", "1,8"], 2, "expected a batch profile of MIN,OPT,MAX such as 1,1,8, found '1,8'"),
        (["IMAGE", "--profile", "4,2,8"], 2, "expected a batch profile of 1 <= MIN <= OPT <= MAX, found 4,2,8"),
        (["IMAGE", "--workspace", "1"], 2, "expected a workspace of at least 64 MiB, found 1 MiB"),
        (["IMAGE", "--precision", "int8"], 1, "found fp32 for cpu"),
        (["IMAGE", "--bundle", "nowhere"], 1, "nowhere: expected a bundle"),
        (["IMAGE", "--batch", "0"], 2, "--batch"),
        (["IMAGE", "--top-k", "0"], 2, "--top-k"),
        (["IMAGE", "--unknown"], 2, "No such option"),
        ([], 2, "Missing argument"),
    ],
)
def test_a_mistake_ends_with_its_documented_code_and_one_clear_message(
    infer: Infer, photos: Path, arguments: list[str], code: int, message: str
) -> None:
    done = infer(*[str(photos / "img1.png") if item == "IMAGE" else item for item in arguments])
    assert done.code == code
    assert message in done.err
    assert done.out == ""
    assert "Traceback" not in done.err


def test_a_device_that_computes_something_else_ends_with_3(infer: Infer, photos: Path, folder: Path) -> None:
    manifest = Bundle.open(folder).manifest
    strict = manifest.variants[0].model_copy(update={"golden_tolerance": 1e-30})
    change_manifest(folder, variants=(strict,))
    done = infer(photos)
    assert done.code == 3
    assert "computes something else than the exporter did" in done.err
    assert infer(photos, "--no-check").code == 0


@pytest.mark.parametrize(
    ("status", "stdout", "expected"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_bar_appears_when_it_takes_long_and_only_where_rows_do_not_scroll_by(
    infer: Infer, photos: Path, monkeypatch: pytest.MonkeyPatch, status: bool, stdout: bool, expected: bool
) -> None:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "status", Console(file=text, force_terminal=status, width=100))
    monkeypatch.setattr(terminal, "stdout", Console(file=io.StringIO(), force_terminal=stdout, width=100))
    monkeypatch.setattr(result_lines, "BAR_DELAY", 3600)
    infer(photos)
    assert "classifying" not in text.getvalue()
    monkeypatch.setattr(result_lines, "BAR_DELAY", 0)
    infer(photos)
    assert ("classifying" in text.getvalue()) == expected


def test_the_installed_command_runs_without_tensorflow_keras_or_onnx(folder: Path, photos: Path) -> None:
    code = """
import sys
from hybrid_edge.runtime.commands.infer import main
try:
    main()
finally:
    print(sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "onnx", "tf2onnx"}))
"""
    arguments = [sys.executable, "-c", code, str(photos), "--bundle", str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(done.stdout.splitlines()) == 14


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_that_goes_away_is_not_an_error(folder: Path, photos: Path, form: list[str]) -> None:
    many = [str(photos)] * 200  # more than a pipe holds
    with subprocess.Popen(
        [*COMMAND, *many, "--bundle", str(folder), *form], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0
    assert b"Traceback" not in err
    assert b"Broken pipe" not in err


def test_an_interrupt_ends_with_130_and_no_traceback(folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(encode(sample_image(1, 2000, 2000)))
    with LiveRun(*[image] * 2000, "--bundle", folder) as run:
        run.frames(1)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
    assert run.errors[-1] == "interrupted"
    assert not any("Traceback" in line for line in run.errors)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("No module named cv2", "pip install 'hybrid-edge[cpu]'"),
        # OpenCV 4.8.1 built for NumPy 1, as JetPack 6's, beside NumPy 2.2.6 on Python 3.10
        ("numpy.core.multiarray failed to import", "pip install 'numpy<2'"),
    ],
)
def test_an_opencv_that_is_missing_or_does_not_fit_is_one_clear_line(
    said: str, advice: str, folder: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "absent" / "cv2").mkdir(parents=True)
    (tmp_path / "absent" / "cv2" / "__init__.py").write_text(f"raise ImportError({said!r})")
    path = os.pathsep.join([str(tmp_path / "absent"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*COMMAND, str(photos)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert line.count("pip install") == line.count(advice) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--snapshots", "kept", "--when", "cat>2"), "expected a probability from 0 to 1 after >, found 2"),
        (("--snapshots", "kept", "--when", "cat"), "found no comparison with a number"),
        (("--snapshots", "photos/img1.png", "--when", "cat>0.5"), "expected a folder, or to create one"),
        (("--save", "out.avi"), "expected a name that ends in .mp4, found .avi"),
        (("--save", "out"), "found no suffix"),
        (("--save", "nowhere/out.mp4"), "expected the folder nowhere to exist"),
        (("--window",), "no display"),
        (("--max-wait", "nan"), "--max-wait"),
    ],
)
def test_what_is_wrong_with_an_output_is_told_before_the_bundle_is_opened(
    infer: Infer, photos: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    done = infer(photos, "--bundle", "missing", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "expected a bundle" not in done.err


def test_an_unknown_label_is_told_before_an_engine_is_opened(infer: Infer, photos: Path, folder: Path) -> None:
    for graph in folder.rglob("*.onnx"):
        graph.unlink()
    done = infer(photos, "--snapshots", "kept", "--when", "caat>0.5")
    assert done.code == 2
    assert "expected one of the model's 5 labels, found 'caat'; near it: cat" in done.err


USB = Camera(
    "/dev/video2",
    "A \x1b[31mred webcam",
    "uvcvideo",
    (
        CameraFormat("MJPG", "Motion-JPEG", tuple((160 * n, 120 * n) for n in range(1, 12))),
        CameraFormat("YUYV", "YUYV 4:2:2", ()),
    ),
)
CSI = Camera(
    "/dev/video0", "vi-output, imx219", "tegra-video", (CameraFormat("RG10", "10-bit Bayer", ((3280, 2464),)),)
)


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> list[Camera]:
    found = [CSI, USB]
    monkeypatch.setattr(camera, "list_cameras", lambda: found)
    return found


@pytest.mark.usefixtures("cameras")
def test_a_camera_is_listed_by_the_name_that_opens_it_with_its_formats(infer: Infer) -> None:
    lines = infer("--list-cameras").out.splitlines()
    assert lines[0].startswith("csi://0  vi-output, imx219 (tegra-video), /dev/video0: a CSI sensor")
    assert lines[1].split() == ["RG10", "10-bit", "Bayer:", "3280x2464"]
    assert lines[2].startswith("/dev/video2  A \\x1b[31mred webcam (uvcvideo)")
    assert lines[3].endswith("1280x960 and 3 more")
    assert lines[4].endswith("any size")


@pytest.mark.usefixtures("cameras")
def test_json_has_one_object_a_camera(infer: Infer) -> None:
    csi, usb = infer("--list-cameras", "--json").lines
    assert (csi["source"], csi["node"]) == ("csi://0", "/dev/video0")
    mjpg = usb["formats"][0]
    assert (usb["source"], mjpg["fourcc"], mjpg["sizes"][0]) == ("/dev/video2", "MJPG", [160, 120])


def test_no_camera_is_said_on_stderr(infer: Infer, cameras: list[Camera]) -> None:
    cameras.clear()
    done = infer("--list-cameras")
    assert (done.code, done.out) == (0, "")
    assert "no camera found" in done.err
