"""A bundle that another machine exported, on this one: its answers, its forms, and the commands.

``HYBRID_EDGE_TEST_BUNDLE`` names it, a tar with FP32 and INT8 for the CPU, as ``make test-arm64`` and ``make
test-oldest`` do; without it there is no other machine, and the tests are skipped.
"""

import json
import os
import platform
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data.recordings import play, write_clip
from support.machines.commands import command
from support.models.bundles import encode

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.backends import open_backend
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.golden import check_golden
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.preprocess import Preprocessor

GIVEN = os.environ.get("HYBRID_EDGE_TEST_BUNDLE", "")
# from the exporter's probabilities. FP32: sums in another order. INT8: now and then such a difference moves a value to
# the next of its 256 levels; weights that saturate, or a wrong kernel, move all of them
NEAR = {"fp32": 1e-5, "int8": 0.02}

pytestmark = pytest.mark.skipif(not GIVEN, reason="HYBRID_EDGE_TEST_BUNDLE names no bundle made elsewhere")
both_precisions = pytest.mark.parametrize("precision", NEAR)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(GIVEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("unpacked") / "bundle"
    with tarfile.open(GIVEN) as tar:
        tar.extractall(target)  # noqa: S202 - our own
    return target


@pytest.fixture(scope="module")
def photos(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("photos")
    suffixes = (".png", ".bmp", ".tiff", ".ppm")  # none of them loses anything
    for number, frame in enumerate(bundle.golden_images()):
        suffix = suffixes[number % len(suffixes)]
        (target / f"{number:02}{suffix}").write_bytes(encode(frame, suffix))
    return target


def exported(bundle: Bundle, precision: str) -> Any:
    (variant,) = [item for item in bundle.manifest.variants if (item.target, item.precision) == ("cpu", precision)]
    return bundle.golden_outputs(variant).probabilities


def infer(*arguments: object) -> list[dict[str, Any]]:
    done = command("hybrid-infer", *arguments, "--bundle", GIVEN, "--json")
    assert done.returncode == 0, done.stderr
    assert "golden check" in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@both_precisions
def test_the_golden_check_passes_with_preprocessing_equal_to_the_bit(bundle: Bundle, precision: str) -> None:
    selection = open_backend(bundle, "cpu", precision)
    with selection.backend as backend:
        result = check_golden(bundle, selection.variant, backend, Preprocessor(bundle.spec))
    assert selection.variant.precision == precision
    assert result.tensor_error == 0
    assert result.probability_error <= NEAR[precision]


@both_precisions
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_tar_and_folder_give_the_exporters_answers(
    bundle: Bundle, folder: Path, photos: Path, precision: str, batch: int
) -> None:
    expected = exported(bundle, precision)
    for path in (GIVEN, folder):
        with Classifier.load(path, backend="cpu", precision=precision, batch_size=batch) as classifier:
            found = np.stack([item.probabilities for item in classifier.predict(sorted(photos.iterdir()))])
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
        assert np.abs(found - expected).max() <= NEAR[precision]


@both_precisions
def test_hybrid_infer_reads_files_of_several_formats(bundle: Bundle, photos: Path, precision: str) -> None:
    lines = infer(photos, "--precision", precision)
    expected = exported(bundle, precision)
    labels = bundle.spec.class_labels
    assert [Path(line["source"]).name for line in lines] == sorted(path.name for path in photos.iterdir())
    assert [line["labels"][0] for line in lines] == [labels[index] for index in expected.argmax(axis=1)]


def test_hybrid_doctor_finds_that_both_precisions_work_here() -> None:
    done = command("hybrid-doctor", "--bundle", GIVEN, "--json", timeout=1200)  # ten processes, where they are emulated
    report = json.loads(done.stdout)
    states = {item["target"]: set() for item in report["engines"]}
    for item in report["engines"]:
        states[item["target"]].add(item["state"])
    assert states["cpu"] == {"works"}, report["engines"]
    assert (done.returncode, report["facts"]["machine"]) == (report["exit_code"], platform.machine())
    assert not [item for item in report["findings"] if item["severity"] == "broken"]


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v")])
def test_hybrid_infer_reads_a_video_and_records_one(bundle: Bundle, tmp_path: Path, suffix: str, codec: str) -> None:
    frames = [cv2.resize(frame, (128, 128), interpolation=cv2.INTER_NEAREST) for frame in bundle.golden_images()]
    video, recorded = write_clip(tmp_path / f"clip{suffix}", frames, 5, codec), tmp_path / "recorded.mp4"
    lines = infer(video, "--save", recorded)
    assert [line["frame"] for line in lines] == list(range(len(frames)))
    expected = exported(bundle, "fp32").argmax(axis=1)
    right = [line["labels"][0] == bundle.spec.class_labels[index] for line, index in zip(lines, expected, strict=True)]
    assert np.mean(right) >= 0.7  # a video's frames are not those that went in
    assert len(play(recorded)) == len(frames)


def test_hybrid_bench_measures_both_precisions(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    brief = ("--batch", "1,2", "--seconds", 0.05, "--rounds", 2, "--starts", 1, "--backend", "cpu")
    done = command("hybrid-bench", GIVEN, *brief, "--json", report)
    assert done.returncode == 0, done.stderr
    cases = json.loads(report.read_text())["cases"]
    assert {(case["precision"], case["batch"]) for case in cases} == {(name, size) for name in NEAR for size in (1, 2)}
