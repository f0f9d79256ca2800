"""The export as a whole, on the digits stand-in: what is planned, proven, written, refused and reported."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from whole import CALIBRATION, EVERY, NAMES, PHOTOS, read_report, with_damaged_ranges

from hybrid_edge.calib import choose_images
from hybrid_edge.export import speed
from hybrid_edge.export.activations import Activations
from hybrid_edge.export.images import MINIMUM, ChosenImages
from hybrid_edge.export.measure import measure_model
from hybrid_edge.export.plan import plan_artifacts
from hybrid_edge.export.prepare import prepare
from hybrid_edge.export.request import make_request
from hybrid_edge.export.settings import ExportSettings, choose_precisions
from hybrid_edge.export.steps import Steps
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.cpu import INT8_FEATURES
from hybrid_edge.runtime.errors import BundleError, CalibrationError, DataError, ParityError, UsageError
from hybrid_edge.runtime.manifest import MANIFEST
from hybrid_edge.runtime.preprocess import contract_hash
from hybrid_edge.runtime.timing import summarize_times
from hybrid_edge.train.data import LabelledImage
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import load_model, save_model

if TYPE_CHECKING:
    from whole import Whole

QUIET = Steps(quiet=True)


def files(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def listed(folder: Path) -> list[LabelledImage]:
    return [LabelledImage(path, "") for path in sorted(folder.rglob("*.png"))]


# what is planned and written


def test_every_precision_gives_the_planned_variants(whole: Whole) -> None:
    assert tuple(whole.variants) == NAMES == whole.result.written
    for name, item in whole.variants.items():
        quantized_engine = name.startswith("int8-tensorrt")
        assert (item.opset, item.ir_version) == ((19, 9) if quantized_engine else (17, 8)), name
        assert item.recurrent == ("unrolled" if name.endswith("unrolled") else "lstm")
        steps = whole.prepared.spec.timesteps if item.recurrent == "unrolled" else 0
        assert item.operators.get("LSTM", 0) == (0 if steps else 1)
        assert item.branches[-1] == f"recurrent form: {1 - bool(steps)} LSTM, 0 Loop, {steps} unrolled steps"


def test_a_graph_is_stored_once_for_all_targets_and_a_weight_once_for_all_steps(whole: Whole) -> None:
    bundle = Bundle.open(whole.result.bundle)
    assert files(bundle.root) == {MANIFEST, *bundle.manifest.files}
    graphs = {name: item.file for name, item in whole.variants.items()}
    assert graphs["fp32-cpu"] == graphs["fp32-cuda"] == graphs["fp32-tensorrt"]
    assert graphs["fp16-cuda"] == graphs["fp16-tensorrt"]
    assert len(set(graphs.values())) == 7
    full = graphs["fp32-cpu"].size
    assert graphs["fp32-tensorrt-unrolled"].size < 1.05 * full
    assert graphs["fp16-tensorrt-unrolled"].size < 0.55 * full
    assert graphs["int8-tensorrt-unrolled"].size < 0.35 * full
    assert graphs["int8-cpu-unrolled"].size < 0.35 * full


@pytest.mark.parametrize(
    ("name", "cnn", "recurrent"),
    [
        ("fp32-cpu", "FP32", "1/1 LSTM FP32"),
        ("fp16-tensorrt", "FP16", "1/1 LSTM FP16"),
        ("fp16-tensorrt-unrolled", "FP16", "28/28 matrix products FP16"),
        ("int8-tensorrt", "INT8", "1/1 LSTM FP16"),
        ("int8-tensorrt-unrolled", "INT8", "28/28 matrix products INT8"),
        ("int8-cpu-unrolled", "INT8", "28/28 matrix products INT8"),
    ],
)
def test_the_branches_say_in_which_precision_they_run(whole: Whole, name: str, cnn: str, recurrent: str) -> None:
    branches = whole.variants[name].branches
    assert branches[0].startswith(f"CNN: 3/3 convolutions {cnn}")
    assert branches[1] == f"recurrent branch: {recurrent}"


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
        assert parity.accuracy is not None
        assert parity.accuracy.keras == 1, "the images are in folders of Keras's own labels"
        names = " ".join(check.name for check in parity.checks)
        expected = {"fp32": "logits", "fp16": "top-1 agreement", "int8": "accuracy drop"}[item.precision]
        assert expected in names
        assert "beside other rows" in names


def test_a_record_binds_the_ranges_to_what_they_were_measured_on(whole: Whole) -> None:
    spec, weights = whole.prepared.spec, whole.prepared.weights
    for name, item in whole.variants.items():
        record = item.calibration
        if name.startswith("fp32"):
            assert record is None
            continue
        assert record is not None
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
        assert classifier.golden is not None
        assert classifier.golden.examples == 8
        assert classifier.golden.probability_error <= 1e-4


def test_the_recorded_answers_are_each_variants_own(whole: Whole) -> None:
    bundle = Bundle.open(whole.result.bundle)
    found = {name: bundle.golden_outputs(item).probabilities for name, item in whole.variants.items()}
    for name, probabilities in found.items():
        error = np.abs(probabilities - found["fp32-cpu"]).max()
        assert (error == 0) == (name in {"fp32-cpu", "fp32-cuda", "fp32-tensorrt"}), name
        assert error <= 0.25


def test_a_cpu_takes_int8_by_itself(whole: Whole) -> None:
    with Classifier.load(whole.result.bundle, backend="cpu") as classifier:
        assert classifier.selection.variant.name == "int8-cpu-unrolled"


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
    assert report["fp32_because_of_range"] == []
    largest = report["largest_activations"]
    assert {name.split("/")[0] for name in largest} >= {"cnn", "rnn"}
    assert all(0 <= value < 16_000 for value in largest.values())
    for step in ("load the Keras model", "convert to ONNX", "calibrate on 40 images", "commit the bundle"):
        assert report["seconds"][step] >= 0


@pytest.mark.parametrize("recurrent", ["lstm", "unrolled", "auto"])
@pytest.mark.parametrize("precision", EVERY)
def test_the_form_of_the_recurrent_branch_is_the_one_asked_for(whole: Whole, precision: Any, recurrent: Any) -> None:
    artifacts = plan_artifacts((precision,), recurrent, whole.prepared.spec)
    forms = {artifact.recurrent for artifact in artifacts if "tensorrt" in artifact.targets}
    assert forms == ({"lstm", "unrolled"} if recurrent == "auto" else {recurrent})
    assert {target for artifact in artifacts for target in artifact.targets} == {
        "fp32": {"cpu", "cuda", "tensorrt"},
        "fp16": {"cuda", "tensorrt"},
        "int8": {"cpu", "tensorrt"},
    }[precision]
    for artifact in artifacts:
        written = whole.prepared.lowering.write(artifact)  # checks itself against what was planned
        assert any(node.op_type == "LSTM" for node in written.graph.node) == (artifact.recurrent == "lstm")


@pytest.mark.parametrize("precision", EVERY)
def test_a_cnn_alone_has_no_form(whole: Whole, precision: Any) -> None:
    spec = whole.prepared.spec.replace(branches="cnn")
    assert {item.recurrent for item in plan_artifacts((precision,), "auto", spec)} == {"none"}


def test_the_widest_precision_comes_first_and_fp32_where_none_was_asked_for() -> None:
    assert choose_precisions(fp32=True, fp16=True, int8=True) == EVERY
    assert choose_precisions(fp32=False, fp16=False, int8=True) == ("int8",)
    assert choose_precisions(fp32=False, fp16=False, int8=False) == ("fp32",)


# calibration


def test_ranges_are_reused_where_everything_is_the_same(whole: Whole, tmp_path: Path) -> None:
    request = replace(whole.request, out=tmp_path / "bundle", settings=ExportSettings(precisions=("int8",)))
    shutil.copytree(whole.result.report, request.report)
    for method, other in (("minmax", "percentile"), ("entropy", "minmax")):
        settings = ExportSettings(precisions=("int8",), method=method)  # type: ignore[arg-type]
        again = prepare(replace(request, settings=settings), QUIET)
        assert again.measurement is not None
        assert again.measurement.calibration.reused
        assert again.measurement.calibration.reason.startswith("reused from ranges.npz: same weights, images")
        assert again.lowering.signed.keys() == whole.prepared.lowering.signed.keys()
        assert again.lowering.signed != whole.prepared.lowering.signed, f"{method} is not {other}"


@pytest.mark.parametrize("changed", ["weights", "images", "preprocessing"])
def test_ranges_are_measured_again_for_anything_else(whole: Whole, tmp_path: Path, changed: str) -> None:
    prepared = whole.prepared
    model, spec = load_model(whole.request.model)
    shutil.copy(whole.result.report / "ranges.npz", tmp_path)
    images = choose_images(listed(whole.calibration)[: 8 if changed == "images" else None])
    if changed == "preprocessing":
        spec = spec.replace(resize="center-crop")
    weights = "0" * 64 if changed == "weights" else prepared.weights
    graph = prepared.lowering.source("unrolled")
    found = measure_model(model, spec, graph, images, prepared.reference, weights, tmp_path, QUIET)
    assert not found.calibration.reused
    assert found.calibration.reason == (f"measured again: {changed} differ from those that ranges.npz was measured on")


def test_no_calibration_image_is_refused(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    settings = ExportSettings(precisions=("int8",))
    with pytest.raises(DataError) as none:
        make_request(whole.request.model, images=whole.photos, calib=tmp_path / "empty", settings=settings)
    request = make_request(
        whole.request.model, images=whole.photos, calib=whole.photos, out=tmp_path / "b", settings=settings
    )
    with pytest.raises(
        CalibrationError, match=r"found none: of 16 candidates 16 validate.*--calib DIR"
    ) as all_held_out:
        prepare(request, QUIET)
    assert none.value.exit_code == all_held_out.value.exit_code == 1


def test_a_model_file_brings_no_images_to_calibrate_on(whole: Whole) -> None:
    for precisions in (("int8",), ("fp16", "int8"), ("fp16",)):
        with pytest.raises(UsageError, match=r"must be calibrated.*--calib DIR"):
            make_request(whole.request.model, images=whole.photos, settings=ExportSettings(precisions=precisions))  # type: ignore[arg-type]


def test_seven_bits_run_on_every_cpu(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ExportSettings(weight_bits=8).cpu_features == INT8_FEATURES
    prepared = replace(
        whole.prepared, lowering=replace(whole.prepared.lowering, levels=ExportSettings(weight_bits=7).levels)
    )
    result = whole.again(monkeypatch, tmp_path / "bundle", prepared, weight_bits=7)
    narrow, wide = result.manifest.variants[0], whole.variants["int8-cpu-unrolled"]  # type: ignore[union-attr]
    assert narrow.name == "int8-cpu"
    assert narrow.cpu_features == ()
    assert wide.cpu_features == whole.request.settings.cpu_features
    largest = {
        item.name: largest_weight(bundle, item)
        for item, bundle in ((narrow, result.bundle), (wide, whole.result.bundle))
    }
    assert largest[narrow.name] == 63
    assert largest[wide.name] == whole.request.settings.levels


def largest_weight(bundle: Path, variant: Any) -> int:
    graph = onnx.load(bundle / variant.file.path).graph
    integers = [numpy_helper.to_array(item) for item in graph.initializer if item.name.endswith("/integers")]
    return max(int(np.abs(array.astype(np.int32)).max()) for array in integers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recurrent": "gru"}, "--recurrent: expected lstm, unrolled, auto, found 'gru'"),
        ({"method": "mse"}, "--method: expected minmax, entropy, percentile, found 'mse'"),
        ({"max_drop": -0.1}, "--max-drop: expected points of accuracy from 0 to 100, found -10"),
        ({"weight_bits": 4}, "--weight-bits: expected 7 or 8, found 4"),
    ],
)
def test_a_setting_that_does_not_exist_is_wrong_usage(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExportSettings(**changes)


# what a gate refuses


def test_a_damaged_calibration_is_refused_and_what_passes_is_written(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = whole.again(monkeypatch, tmp_path / "bundle", whole.damaged(8), precisions=("fp32", "int8"))
    assert result.written == ("fp32-cpu", "fp32-cuda", "fp32-tensorrt")
    bundle = Bundle.open(result.bundle)
    assert [item.name for item in bundle.manifest.variants] == list(result.written)
    assert files(result.bundle) == {MANIFEST, *bundle.manifest.files}
    with pytest.raises(ParityError) as refused:
        result.require_passed()
    message = str(refused.value)
    assert refused.value.exit_code == 3
    assert message.startswith("2 of 5 variants refused (int8-cpu, int8-tensorrt), the bundle has fp32-cpu, fp32-cuda")
    assert "accuracy drop: expected at most 0.005, found 0." in message
    assert "calibration ranges that don't fit these activations" in message
    assert len(message) < 1200
    report = read_report(result)
    assert report["written"] == list(result.written)
    assert [item["passed"] for item in report["variants"]] == [True] * 3 + [False] * 2
    assert "Likely cause" in report["variants"][-1]["refused"]
    assert (result.report / report["variants"][-1]["flips"]).is_file()


def test_where_nothing_passes_no_bundle_appears_and_the_report_says_why(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = whole.again(monkeypatch, tmp_path / "bundle", whole.damaged(8))
    assert (result.manifest, result.written) == (None, ())
    assert not result.bundle.exists()
    with pytest.raises(ParityError, match=r"2 of 2 variants refused .*, nothing was written to the bundle"):
        result.require_passed()
    assert read_report(result)["written"] == []


def test_a_variant_that_passed_before_stays_where_its_successor_is_refused(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(whole.result.bundle, out)
    before = (out / MANIFEST).read_bytes()
    assert whole.again(monkeypatch, out, whole.damaged(8), recurrent="unrolled").written == ()
    assert (out / MANIFEST).read_bytes() == before
    assert files(out) == files(whole.result.bundle)
    result = whole.again(monkeypatch, out, precisions=("fp16",))
    assert result.written == ("fp16-cuda", "fp16-tensorrt")
    assert result.manifest is not None
    assert {item.name for item in result.manifest.variants} == set(NAMES)
    assert {item["name"] for item in read_report(result)["variants"]} == set(result.written)


def test_a_file_in_the_place_of_the_report_is_refused_at_once(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle-report").write_text("notes")
    with pytest.raises(BundleError, match=r"bundle-report: expected a folder for the report, found a file"):
        whole.again(monkeypatch, tmp_path / "bundle")
    assert (tmp_path / "bundle-report").read_text() == "notes"


def test_leftovers_of_a_killed_export_are_swept_from_the_reports_folder(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle-report"
    folder.mkdir()
    for name in (".report.json-a1.tmp", ".ranges.npz-b2.tmp", ".flips-int8-cpu.png-c3.tmp.png"):
        (folder / name).write_bytes(b"torn")
    (folder / "flips-fp16-cuda.png").write_bytes(b"of other weights")
    (folder / "notes.txt").write_text("mine")
    whole.again(monkeypatch, tmp_path / "bundle", precisions=("fp32",))
    assert files(folder) == {"report.json", "notes.txt"}


# causes and warnings


def few_images(request: Any) -> Any:
    """The same request with as few images as an export takes."""
    images = ChosenImages(request.images.images[:MINIMUM])
    return replace(request, calibration=request.calibration[:MINIMUM], images=images)


def test_an_activation_beyond_fp16_stays_in_fp32_and_is_named(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first convolution 2^16 times larger and the second 2^16 times smaller is the same function."""
    request = scaled(whole, tmp_path, (2.0**16, 2.0**-16))
    result = export_scaled(whole, request, monkeypatch)
    result.require_passed()
    item = result.manifest.variants[0]  # type: ignore[union-attr]
    warned = next(text for text in item.warnings if "stay in FP32" in text)
    assert warned.startswith("beyond FP16's 65,504, so these layers stay in FP32: cnn/")
    wide = read_report(result)["fp32_because_of_range"]
    assert wide
    largest = read_report(result)["largest_activations"]
    assert all(largest[name] > 65_504 for name in wide)
    assert item.branches[0].startswith("CNN: 1/3 convolutions FP16, 2/3 convolutions FP32")


def test_an_activation_near_the_end_of_fp16_is_warned_of(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = [peak_of(whole, number) for number in (0, 1, 2)]
    first = 2.0 ** np.floor(np.log2(60_000 / peaks[0]))
    # each layer takes a part of it back: all at once, the second's weights would fall below FP16's normal numbers
    request = scaled(whole, tmp_path, (first, 2.0**-5, 2.0**-5, 2.0**10 / first))
    result = export_scaled(whole, request, monkeypatch)
    result.require_passed()
    item = result.manifest.variants[0]  # type: ignore[union-attr]
    assert any(text.startswith("activations above 16,000 in FP16") and "cnn/" in text for text in item.warnings)
    assert read_report(result)["fp32_because_of_range"] == []
    assert "FP32" not in item.branches[0]


def peak_of(whole: Whole, number: int) -> float:
    """The largest activation behind a convolution of the CNN."""
    graph = whole.prepared.lowering.source("lstm").graph
    name = [node.output[0] for node in graph.node if node.op_type == "Conv"][number]
    return float(whole.report["largest_activations"][name])


def scaled(whole: Whole, folder: Path, factors: Iterable[float]) -> Any:
    """A request for the stand-in whose convolutions and Dense layer of the CNN are scaled, one factor each."""
    model, spec = load_model(whole.request.model)
    layers = [layer for layer in model.get_layer("cnn").layers if layer.get_weights()]
    total = 1.0
    for layer, factor in zip(layers, factors, strict=False):
        total *= factor
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * np.float32(factor), bias * np.float32(total)])
    assert total == 1
    save_model(model, spec, folder / "scaled.keras")
    settings = ExportSettings(precisions=("fp16",), recurrent="lstm")
    return replace(whole.request, model=folder / "scaled.keras", out=folder / "bundle", settings=settings)


def export_scaled(whole: Whole, request: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    prepared = prepare(few_images(request), QUIET)
    return whole.again(monkeypatch, request.out, prepared, precisions=("fp16",))


@pytest.mark.parametrize("milliseconds", [2.0, 0.5])
def test_a_precision_that_is_slower_here_is_kept_with_a_plain_warning(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: float
) -> None:
    def timed(calls: Any, **_: Any) -> dict[str, Any]:
        return {name: summarize_times(np.full(5, ms)) for name, ms in zip(calls, (1.0, milliseconds), strict=True)}

    monkeypatch.setattr(speed, "time_interleaved", timed)
    result = whole.again(monkeypatch, tmp_path / "bundle")
    result.require_passed()
    assert result.manifest is not None
    assert files(result.bundle) == {MANIFEST, *result.manifest.files}, "what it was compared with is not kept"
    for source in (result.manifest.variants, result.entries):
        warned = {item.name: [text for text in item.warnings if "slower" in text] for item in source}
        assert warned["int8-tensorrt"] == [], "it is only simulated here"
        assert [text.split(" on ")[0] for text in warned["int8-cpu"]] == ["int8 takes 2.00 ms an image"] * (
            milliseconds > 1
        )
        assert all("fp32 1.00 ms: int8 is 2.00 times slower here" in text for text in warned["int8-cpu"])


def test_stale_statistics_are_named_as_the_cause_before_the_quantizer(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin, spec = load_model(whole.request.model)
    spec = spec.replace(rnn_batch_norm=True)
    model = build_model(spec)  # its BatchNorm's averages are still 0 and 1: it changes nothing, and expects more
    norm = model.get_layer("rnn").get_weights()[-4:]
    model.get_layer("rnn").set_weights([*standin.get_layer("rnn").get_weights(), *norm])
    for name in ("cnn", "logits"):
        model.get_layer(name).set_weights(standin.get_layer(name).get_weights())
    save_model(model, spec, tmp_path / "stale.keras")
    prepared = prepare(few_images(replace(whole.request, model=tmp_path / "stale.keras")), QUIET)
    result = whole.again(monkeypatch, tmp_path / "stale", prepared)
    result.require_passed()
    assert result.entries[0].warnings[0].startswith("BatchNorm's moving averages are stale")
    result = whole.again(monkeypatch, tmp_path / "damaged", with_damaged_ranges(prepared, 8))
    assert result.written == ()
    for entry in result.entries:
        cause = entry.refused.partition("Likely cause: ")[2]
        assert cause.startswith("BatchNorm's moving averages are stale"), entry.refused
        assert "only then calibration ranges" in cause
    assert "rnn_batch_norm" in read_report(result)["stale_batch_norm"]


def test_the_wider_of_two_reasons_is_what_a_layer_is_judged_by() -> None:
    found = Activations({"cnn/a": 70_000.0, "cnn/b": 20_000.0, "cnn/c": 3.0}, {"cnn/d": 1e5})
    assert found.wide == {"cnn/a", "cnn/d"}
    beyond, near = found.warnings
    assert "cnn/d (100,000), cnn/a (70,000)" in beyond
    assert "cnn/b (20,000)" in near
