"""The export as a whole, on the digits stand-in: what is planned, proven, written, refused and reported."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from support.models.bundles import files_of
from support.models.standin import DIGITS, make_standin, write_crops
from support.models.whole import CALIBRATION, NAMES, PHOTOS, export_whole, write_decided, write_flat

from hybrid_edge.export.bundle.report import DIAGRAMS, show_report
from hybrid_edge.export.convert.inspection import describe
from hybrid_edge.export.export_request import ExportSettings, make_request
from hybrid_edge.export.exporter import export
from hybrid_edge.export.quantize.prepared_model import prepare
from hybrid_edge.export.step_log import StepLog
from hybrid_edge.runtime.backends.selection import MAX_SLOWDOWN
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.errors import CalibrationError, DataError
from hybrid_edge.runtime.manifest import MANIFEST
from hybrid_edge.runtime.preprocess import contract_hash, read_image
from hybrid_edge.train.data import LabelledImage

if TYPE_CHECKING:
    from support.models.whole import Whole

QUIET = StepLog(quiet=True)


def listed(folder: Path) -> list[LabelledImage]:
    return [LabelledImage(path, "") for path in sorted(folder.rglob("*.png"))]


def test_every_precision_gives_the_planned_variants(whole: Whole) -> None:
    assert tuple(whole.variants) == NAMES == whole.result.written
    for name, item in whole.variants.items():
        quantized_engine = name.startswith("int8-tensorrt")
        assert (item.opset, item.ir_version) == ((19, 9) if quantized_engine else (17, 8)), name
        assert item.recurrent == ("unrolled" if name.endswith("unrolled") else "lstm")
        steps = whole.prepared.spec.timesteps if item.recurrent == "unrolled" else 0
        assert item.operators.get("LSTM", 0) == (0 if steps else 1)
        assert item.branches == describe(onnx.load(whole.result.bundle / item.file.path))


def test_a_graph_is_stored_once_for_all_targets_and_a_weight_once_for_all_steps(whole: Whole) -> None:
    bundle = Bundle.open(whole.result.bundle)
    assert files_of(bundle.root) == {MANIFEST, *bundle.manifest.files}
    graphs = {name: item.file for name, item in whole.variants.items()}
    assert graphs["fp32-cpu"] == graphs["fp32-cuda"] == graphs["fp32-tensorrt"]
    assert graphs["fp16-cuda"] == graphs["fp16-tensorrt"]
    assert len(set(graphs.values())) == 7
    full = graphs["fp32-cpu"].size
    assert graphs["fp32-tensorrt-unrolled"].size < 1.05 * full
    assert graphs["fp16-tensorrt-unrolled"].size < 0.55 * full
    assert graphs["int8-tensorrt-unrolled"].size < 0.35 * full
    assert graphs["int8-cpu-unrolled"].size < 0.35 * full


def test_what_is_not_on_this_machine_is_simulated_and_says_so(whole: Whole) -> None:
    places = {"cpu": " on CPU,", "cuda": " on CUDA,", "tensorrt": "TensorRT"}
    for item in whole.variants.values():
        engine = item.parity.measured_on.split(";")[0]
        assert item.parity.simulated == (places[item.target] not in engine), engine
        if item.parity.simulated and item.precision == "fp16":
            assert "on CPU (simulated) with FP16 weights" in engine
    assert not whole.variants["int8-cpu-unrolled"].parity.simulated


def test_every_gate_has_its_figures_and_limits(whole: Whole) -> None:
    whole.result.require_passed()
    for item in whole.variants.values():
        parity = item.parity
        assert parity.passed
        assert parity.images == PHOTOS
        assert len(parity.hidden_drift) == whole.prepared.spec.timesteps
        assert 0 < parity.hidden_drift[-1] < 0.1
        assert parity.accuracy.keras == 1, "the images are in folders of Keras's own labels"
        names = " ".join(check.name for check in parity.checks)
        expected = {"fp32": "logits", "fp16": "top-1 agreement", "int8": "accuracy drop"}[item.precision]
        assert expected in names
        assert "beside other rows" in names


def test_a_hybrid_that_reads_from_both_ends_passes_the_same_gates(photos: Path, tmp_path: Path) -> None:
    spec = DIGITS.replace(cell="bilstm", rnn_units=32)
    make_standin(spec, tmp_path / "model.keras")
    export(make_request(tmp_path / "model.keras", images=photos, out=tmp_path / "first"))
    decided = write_decided(tmp_path / "first", tmp_path / "decided", PHOTOS, seed=79)
    whole = export_whole(tmp_path / "model.keras", decided, tmp_path)
    whole.result.require_passed()
    assert tuple(whole.variants) == NAMES
    for item in whole.variants.values():
        assert len(item.parity.hidden_drift) == spec.timesteps
        assert 0 < item.parity.hidden_drift[-1] < 0.1
    lstm, unrolled = (describe(onnx.load(file_of(whole, name)))[-1] for name in ("fp32-cpu", "int8-cpu-unrolled"))
    assert lstm == "recurrent form: 1 LSTM, 0 Loop, 0 unrolled steps"
    assert unrolled == f"recurrent form: 0 LSTM, 0 Loop, {2 * spec.timesteps} unrolled steps"


def test_recurrent_weights_of_8_bits_pass_their_gate_and_run(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = whole.again(monkeypatch, tmp_path / "bundle", precisions=("w8",), recurrent="auto")
    result.require_passed()
    assert result.written == ("w8-cpu-unrolled",)
    assert (whole.result.manifest.format_version, result.manifest.format_version) == (1, 3)
    (variant,) = result.manifest.variants
    assert "with 8-bit weights" in variant.branches[1]
    assert variant.calibration is None
    assert variant.parity.max_probability_error < 0.05
    with Classifier.load(result.bundle, precision="w8") as classifier:
        assert classifier.golden.examples == 8


def test_images_without_classes_are_golden_examples_without_a_label(whole: Whole, tmp_path: Path) -> None:
    flat = write_flat(tmp_path / "flat", 8, seed=5)
    result = export(make_request(whole.request.model, images=flat, out=tmp_path / "bundle"))
    result.require_passed()
    with Classifier.load(result.bundle) as classifier:
        assert classifier.golden.examples == 8
        assert {item.label for item in classifier.bundle.manifest.golden.images} == {""}


def file_of(whole: Whole, name: str) -> Path:
    return Path(whole.result.bundle / whole.variants[name].file.path)


def test_a_record_binds_the_ranges_to_what_they_were_measured_on(whole: Whole) -> None:
    spec, weights = whole.prepared.spec, whole.prepared.weights
    for name, item in whole.variants.items():
        record = item.calibration
        if name.startswith("fp32"):
            assert record is None
            continue
        assert record["weights_sha256"] == weights
        assert record["preprocessing_sha256"] == contract_hash(spec)
        assert len(record["images_sha256"]) == len(record["graph_sha256"]) == 64
        assert record["images"] == CALIBRATION
        assert record.get("method") == ("percentile" if name.startswith("int8") else None)


def test_fewer_than_300_calibration_images_are_warned_of(whole: Whole) -> None:
    for name, item in whole.variants.items():
        warned = [text for text in item.warnings if f"calibrated on {CALIBRATION} images: expected 300" in text]
        assert len(warned) == (not name.startswith("fp32"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_device_comes_to_the_recorded_answers(whole: Whole, precision: str) -> None:
    with Classifier.load(whole.result.bundle, backend="cpu", precision=precision) as classifier:
        assert classifier.selection.variant.precision == precision
        assert classifier.golden.examples == 8
        assert classifier.golden.probability_error <= 1e-4


def test_the_recorded_answers_are_each_variants_own(whole: Whole) -> None:
    bundle = Bundle.open(whole.result.bundle)
    found = {name: bundle.golden_outputs(item).probabilities for name, item in whole.variants.items()}
    for name, probabilities in found.items():
        error = np.abs(probabilities - found["fp32-cpu"]).max()
        assert (error == 0) == (name in {"fp32-cpu", "fp32-cuda", "fp32-tensorrt"}), name
        assert error <= 0.25


def test_a_cpu_takes_what_was_faster_where_it_was_exported(whole: Whole) -> None:
    timed = {item["name"]: item["time_ratio"] for item in whole.report["variants"]}
    ratio = timed["int8-cpu-unrolled"]
    assert whole.variants["int8-cpu-unrolled"].slower == (ratio > MAX_SLOWDOWN)
    with Classifier.load(whole.result.bundle, backend="cpu") as classifier:
        assert classifier.selection.variant.name == ("fp32-cpu" if ratio > MAX_SLOWDOWN else "int8-cpu-unrolled")
    simulated = [item for item in whole.variants.values() if item.target != "cpu" and item.parity.simulated]
    assert {timed[item.name] for item in simulated} <= {None}
    assert not any(item.slower for item in simulated)


def test_the_report_has_everything(whole: Whole) -> None:
    report = whole.report
    assert [item["name"] for item in report["variants"]] == list(NAMES) == report["written"]
    for item in report["variants"]:
        assert item["passed"]
        assert {"found", "limit", "passed"} <= item["checks"][0].keys()
        assert item["size"] > 0
        assert item["branches"]
        if item["flips"]:
            assert (whole.result.report / item["flips"]).is_file()
    assert bool(report["variants"][-1]["flips"]) == bool(report["variants"][-1]["parity"]["flips"])
    assert report["method"] == "percentile"
    assert report["calibration"]["ranges"].startswith("measured: ranges.npz is not there yet")
    assert report["calibration"]["images"] == CALIBRATION
    assert report["stale_batch_norm"] is None
    assert report["fp32_because_of_range"] == {"fp16": [], "int8": []}
    for largest in (report["largest_activations"][precision] for precision in ("fp16", "int8")):
        assert {name.split("/")[0] for name in largest} >= {"cnn", "rnn"}
        assert all(0 <= value < 16_000 for value in largest.values())
    for step in ("load the Keras model", "convert to ONNX", "calibrate on 40 images", "commit the bundle"):
        assert report["seconds"][step] >= 0


def test_a_temperature_is_fitted_on_labelled_images_and_a_device_applies_it(
    whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = sorted(write_crops(tmp_path / "crops", 110, seed=83).rglob("*.png"))
    with Classifier.load(whole.result.bundle, precision="fp32") as classifier:
        own = [found.label for found in classifier.predict(crops)]
    for number, (path, label) in enumerate(zip(crops, own, strict=True)):
        truth = label if number % 4 else str((int(label) + 1) % 10)  # three quarters of the answers are right
        (tmp_path / "labelled" / truth).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "labelled" / truth / path.name)
    result = export(make_request(whole.request.model, images=tmp_path / "labelled", out=tmp_path / "bundle"))
    bundle = Bundle.open(result.bundle)
    for item in bundle.manifest.variants:
        found = item.temperature
        assert found is not None
        assert (found.images, sum(part.images for part in found.before)) == (110, 110)
        assert item.file == whole.variants[item.name].file  # nothing of it is in the graph
    assert (result.report / DIAGRAMS).is_file()
    show_report(result.entries)
    assert (
        f"temperature {found.value:.3g}: calibration error {100 * found.error_before:.1f} %" in capsys.readouterr().out
    )
    frames = [read_image(next((tmp_path / "labelled").rglob("*.png")))]
    with Classifier.load(bundle, calibrated=True) as calibrated, Classifier.load(bundle) as plain:
        assert calibrated.golden is not None
        (scaled,), (before_it,) = calibrated.predict(frames), plain.predict(frames)
    assert scaled.label == before_it.label
    powers = np.exp((before_it.logits.astype(np.float64) - before_it.logits.max()) / found.value)
    np.testing.assert_allclose(scaled.probabilities, powers / powers.sum(), rtol=1e-5)


def test_few_labelled_images_give_no_temperature_and_the_report_says_why(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(item.temperature is None for item in whole.variants.values())
    show_report(whole.result.entries)
    assert capsys.readouterr().out.count("no temperature for --calibrated: ") == 1
    assert not (whole.result.report / DIAGRAMS).exists()


def test_ranges_are_reused_where_everything_is_the_same(whole: Whole, tmp_path: Path) -> None:
    request = replace(whole.request, out=tmp_path / "bundle", settings=ExportSettings(precisions=("int8",)))
    shutil.copytree(whole.result.report, request.report)
    for method, other in (("minmax", "percentile"), ("entropy", "minmax")):
        settings = ExportSettings(precisions=("int8",), method=method)  # type: ignore[arg-type]
        again = prepare(replace(request, settings=settings), QUIET)
        assert again.calibration.reason.startswith("reused from ranges.npz: same weights, images")
        ranges, expected = again.graphs.int8, whole.prepared.graphs.int8
        assert ranges.signed.keys() == expected.signed.keys()
        assert ranges.signed != expected.signed, f"{method} is not {other}"


def test_images_that_can_not_be_calibrated_on_are_told_in_one_line_a_step(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    log = StepLog(quiet=True)
    monkeypatch.setattr(log, "say", lambda message, **_: said.append(message))
    photos = shutil.copytree(whole.calibration, tmp_path / "photos")
    candidates = listed(photos)
    candidates[0].path.unlink()
    for number, item in enumerate(candidates[1:3]):
        item.path.write_bytes(b"damaged %d" % number)
    settings = ExportSettings(precisions=("fp16", "int8"))
    request = replace(whole.request, out=tmp_path / "bundle", settings=settings, calibration=tuple(candidates))
    prepared = prepare(request, log)
    count, told = len(candidates), [line for line in said if line.startswith("passed over")]
    missing = f"{candidates[0].path}: No such file or directory"
    assert told[0] == f"passed over 1 of {count} images; the first: {missing}"
    # FP16's largest activations follow from those that INT8's calibration sees: no second step passes over them again
    (line,) = told[1:]
    assert line.startswith(f"passed over 2 of {count - 1} images; the first: {photos}")
    record = prepared.record()
    assert record is not None
    assert record["images"] == count - 3


def test_no_calibration_image_is_refused(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    settings = ExportSettings(precisions=("int8",))
    with pytest.raises(DataError) as none:
        make_request(whole.request.model, images=whole.photos, calib=tmp_path / "empty", settings=settings)
    photos = {"images": whole.photos, "calib": whole.photos}
    request = make_request(whole.request.model, **photos, out=tmp_path / "b", settings=settings)
    with pytest.raises(CalibrationError, match=r"found none: of 16 candidates 16 validate.*--calib DIR") as held_out:
        prepare(request, QUIET)
    assert none.value.exit_code == held_out.value.exit_code == 1


def test_int8_for_the_cpu_names_no_instructions_that_a_cpu_must_have(whole: Whole) -> None:
    """Its weights don't saturate: test_saturation."""
    assert whole.variants["int8-cpu-unrolled"].cpu_features == ()
