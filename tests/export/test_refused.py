"""What a gate refuses and why, what stays in the bundle, and what is only warned of; on the digits stand-in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.models.bundles import files_of
from support.models.whole import NAMES, read_report, with_damaged_ranges

from hybrid_edge.export import variant_maker
from hybrid_edge.export.export_request import MIN_IMAGES, ChosenImages, ExportSettings
from hybrid_edge.export.exporter import ExportResult
from hybrid_edge.export.gates import target_runs
from hybrid_edge.export.quantize.prepared_model import prepare
from hybrid_edge.export.step_log import StepLog
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.errors import BundleError, ParityError
from hybrid_edge.runtime.manifest import MANIFEST
from hybrid_edge.runtime.timing import summarize_times
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import load_model, save_model

if TYPE_CHECKING:
    from support.models.whole import Whole

QUIET = StepLog(quiet=True)
Again = Callable[..., ExportResult]


@pytest.fixture
def again(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> Again:
    """Exports what was prepared before once more, to a place of its own."""
    return partial(whole.again, monkeypatch)


def test_a_damaged_calibration_is_refused_and_what_passes_written(whole: Whole, tmp_path: Path, again: Again) -> None:
    result = again(tmp_path / "bundle", whole.damaged(8), precisions=("fp32", "int8"))
    assert result.written == ("fp32-cpu", "fp32-cuda", "fp32-tensorrt")
    bundle = Bundle.open(result.bundle)
    assert [item.name for item in bundle.manifest.variants] == list(result.written)
    assert files_of(result.bundle) == {MANIFEST, *bundle.manifest.files}
    with pytest.raises(ParityError) as refused:
        result.require_passed()
    assert refused.value.exit_code == 3
    assert str(refused.value) == (
        "2 of 5 variants refused: int8-cpu, int8-tensorrt; written to the bundle: fp32-cpu, fp32-cuda, fp32-tensorrt. "
        f"Reasons and figures are in {result.report}/report.json"
    )
    for entry in result.entries[3:]:
        assert "accuracy drop: expected at most 0.005, found 0." in entry.refused
        assert "Likely cause: calibration ranges that don't fit these activations" in entry.refused
        assert len(entry.refused) < 900
    report = read_report(result)
    assert report["written"] == list(result.written)
    assert [item["passed"] for item in report["variants"]] == [True] * 3 + [False] * 2
    assert "Likely cause" in report["variants"][-1]["refused"]
    assert (result.report / report["variants"][-1]["flips"]).is_file()


def test_where_nothing_passes_no_bundle_appears_the_report_says_why(whole: Whole, tmp_path: Path, again: Again) -> None:
    result = again(tmp_path / "bundle", whole.damaged(8))
    assert (result.manifest, result.written) == (None, ())
    assert not result.bundle.exists()
    with pytest.raises(ParityError, match=r"2 of 2 variants refused: .*; written to the bundle: nothing\. Reasons"):
        result.require_passed()
    assert read_report(result)["written"] == []


def test_a_variant_that_passed_stays_where_its_successor_is_refused(whole: Whole, tmp_path: Path, again: Again) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(whole.result.bundle, out)
    before = (out / MANIFEST).read_bytes()
    refused = again(out, whole.damaged(8), recurrent="unrolled")
    assert refused.written == ()
    with pytest.raises(ParityError, match=r"nothing; of an earlier export it keeps fp32-cpu, .*int8-cpu"):
        refused.require_passed()
    assert (out / MANIFEST).read_bytes() == before
    assert files_of(out) == files_of(whole.result.bundle)
    result = again(out, precisions=("fp16",))
    assert result.written == ("fp16-cuda", "fp16-tensorrt")
    assert {item.name for item in result.manifest.variants} == set(NAMES)
    assert {item["name"] for item in read_report(result)["variants"]} == set(result.written)


def test_a_file_in_the_place_of_the_report_is_refused_at_once(tmp_path: Path, again: Again) -> None:
    (tmp_path / "bundle-report").write_text("notes")
    with pytest.raises(BundleError, match=r"bundle-report: expected a folder for the report, found a file"):
        again(tmp_path / "bundle")
    assert (tmp_path / "bundle-report").read_text() == "notes"


def test_leftovers_of_a_killed_export_are_swept_from_the_reports_folder(tmp_path: Path, again: Again) -> None:
    folder = tmp_path / "bundle-report"
    folder.mkdir()
    for name in (".report.json-a1.tmp", ".ranges.npz-b2.tmp", ".flips-int8-cpu.png-c3.tmp.png"):
        (folder / name).write_bytes(b"torn")
    (folder / "flips-fp16-cuda.png").write_bytes(b"of other weights")
    (folder / "notes.txt").write_text("mine")
    again(tmp_path / "bundle", precisions=("fp32",))
    assert files_of(folder) == {"report.json", "notes.txt"}


def few_images(request: Any) -> Any:
    """The same request with as few images as an export takes."""
    images = ChosenImages(request.images.images[:MIN_IMAGES])
    return replace(request, calibration=request.calibration[:MIN_IMAGES], images=images)


def test_an_activation_beyond_fp16_stays_in_fp32_and_is_named(whole: Whole, tmp_path: Path, again: Again) -> None:
    """The first convolution 2^16 times larger and the second 2^16 times smaller is the same function."""
    request = scaled(whole, tmp_path, (2.0**16, 2.0**-16))
    result = export_scaled(again, request)
    result.require_passed()
    item = result.manifest.variants[0]  # type: ignore[union-attr]
    warned = next(text for text in item.warnings if "stay in FP32" in text)
    assert warned.startswith("beyond FP16's 65,504, so these layers stay in FP32: cnn/")
    wide = read_report(result)["fp32_because_of_range"]["fp16"]
    assert wide
    largest = read_report(result)["largest_activations"]["fp16"]
    assert all(largest[name] > 65_504 for name in wide)
    assert item.branches[0].startswith("CNN: 1/3 convolutions FP16, 2/3 convolutions FP32")


def test_an_activation_near_the_end_of_fp16_is_warned_of(whole: Whole, tmp_path: Path, again: Again) -> None:
    peaks = [peak_of(whole, number) for number in (0, 1, 2)]
    first = 2.0 ** np.floor(np.log2(60_000 / peaks[0]))
    # each layer takes a part of it back: all at once, the second's weights would fall below FP16's normal numbers
    request = scaled(whole, tmp_path, (first, 2.0**-5, 2.0**-5, 2.0**10 / first))
    result = export_scaled(again, request)
    result.require_passed()
    item = result.manifest.variants[0]  # type: ignore[union-attr]
    assert any(text.startswith("activations above 16,000 in FP16") and "cnn/" in text for text in item.warnings)
    assert read_report(result)["fp32_because_of_range"] == {"fp16": []}
    assert "FP32" not in item.branches[0]


def peak_of(whole: Whole, number: int) -> float:
    """The largest activation behind a convolution of the CNN."""
    graph = whole.prepared.graphs.source("lstm").graph
    name = [node.output[0] for node in graph.node if node.op_type == "Conv"][number]
    return float(whole.report["largest_activations"]["fp16"][name])


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


def export_scaled(again: Again, request: Any) -> Any:
    prepared = prepare(few_images(request), QUIET)
    return again(request.out, prepared, precisions=("fp16",))


@pytest.mark.parametrize("milliseconds", [2.0, 0.5])
def test_a_precision_that_is_slower_here_is_kept_with_a_plain_warning(
    tmp_path: Path, again: Again, monkeypatch: pytest.MonkeyPatch, milliseconds: float
) -> None:
    def timed(calls: Any, **_: Any) -> dict[str, Any]:
        return {name: summarize_times(np.full(5, ms)) for name, ms in zip(calls, (1.0, milliseconds), strict=True)}

    monkeypatch.setattr(target_runs, "time_interleaved", timed)
    result = again(tmp_path / "bundle")
    result.require_passed()
    assert files_of(result.bundle) == {MANIFEST, *result.manifest.files}, "what it was compared with is not kept"
    assert {item.name: item.slower for item in result.manifest.variants} == {
        "int8-cpu": milliseconds > 1,
        "int8-tensorrt": False,
    }
    assert {item.name: item.time_ratio for item in result.entries} == {"int8-cpu": milliseconds, "int8-tensorrt": None}
    warned = {item.name: [text for text in item.warnings if "slower" in text] for item in result.entries}
    assert warned["int8-tensorrt"] == [], "it is only simulated here"
    starts = [text.split(" on ")[0] for text in warned["int8-cpu"]]
    assert starts == ["int8 takes 2.00 ms an image"] * (milliseconds > 1)
    assert all("fp32 1.00 ms: int8 is 2.00 times slower here" in text for text in warned["int8-cpu"])
    assert " ms" not in result.manifest.model_dump_json(), "no two exports take the same time"


def test_stale_statistics_are_named_as_cause_before_the_quantizer(whole: Whole, tmp_path: Path, again: Again) -> None:
    standin, spec = load_model(whole.request.model)
    spec = spec.replace(rnn_batch_norm=True)
    model = build_model(spec)  # its BatchNorm's averages are still 0 and 1: it changes nothing, and expects more
    norm = model.get_layer("rnn").get_weights()[-4:]
    model.get_layer("rnn").set_weights([*standin.get_layer("rnn").get_weights(), *norm])
    for name in ("cnn", "logits"):
        model.get_layer(name).set_weights(standin.get_layer(name).get_weights())
    save_model(model, spec, tmp_path / "stale.keras")
    request = replace(whole.request, model=tmp_path / "stale.keras", out=tmp_path / "stale")
    prepared = prepare(few_images(request), QUIET)
    result = again(tmp_path / "stale", prepared)
    result.require_passed()
    assert result.entries[0].warnings[0].startswith("BatchNorm's moving averages are stale")
    result = again(tmp_path / "damaged", with_damaged_ranges(prepared, 8))
    assert result.written == ()
    for entry in result.entries:
        cause = entry.refused.partition("Likely cause: ")[2]
        assert cause.startswith("BatchNorm's moving averages are stale"), entry.refused
        assert "only then calibration ranges" in cause
    assert "rnn_batch_norm" in read_report(result)["stale_batch_norm"]


if TYPE_CHECKING:
    from support.models.whole import Whole

LAYER, INPUT = "cnn/conv_2_1/convolution", "cnn/conv_1_pool_1/MaxPool2d"
LAYERS = 5  # three convolutions, one matrix product, one LSTM


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every artifact that goes through a gate."""
    seen: list[Any] = []
    real = variant_maker.prove

    def prove(file: Path, artifact: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(artifact)
        return real(file, artifact, *arguments, **options)

    monkeypatch.setattr(variant_maker, "prove", prove)
    return seen


def test_the_layer_that_does_not_bear_int8_is_given_back_and_the_cost_is_told(
    whole: Whole, tmp_path: Path, again: Again, proved: list[Any]
) -> None:
    damaged = whole.damaged(64, {INPUT})
    refused = again(tmp_path / "without", damaged)
    assert [entry.passed for entry in refused.entries] == [False, False]
    assert len(proved) == 2
    result = again(tmp_path / "with", damaged, give_back=True)
    result.require_passed()
    assert len(proved) == 2 + 4, "one try with everything, one without the layer, for each artifact"
    # on the CPU the first convolution is in float anyway
    counts = ("1/3 convolutions INT8, 2/3 convolutions FP32", "2/3 convolutions INT8, 1/3 convolutions FP16")
    for item, convolutions in zip(result.manifest.variants, counts, strict=True):
        assert item.calibration["wider_layers"] == [LAYER]
        assert item.branches[0].startswith(f"CNN: {convolutions}")
        cost = item.warnings[0]
        assert cost.startswith(f"in a wider precision, without which the gate refused it: {LAYER}; ")
        assert "MB in place of" in cost
        assert item.file.size >= next(entry.size for entry in refused.entries if entry.name == item.name)
    for item, entry in zip(result.manifest.variants, read_report(result)["variants"], strict=True):
        assert entry["warnings"][0] == item.warnings[0]
        told = [text for text in entry["warnings"] if "times the time of all in INT8" in text]
        assert len(told) == (item.target == "cpu"), "the other is simulated"
        assert not set(told) & set(item.warnings), "no two exports take the same time"
    with Classifier.load(result.bundle, backend="cpu", precision="int8") as classifier:
        assert classifier.golden is not None


def test_int8_that_passes_gives_nothing_back(
    tmp_path: Path, again: Again, monkeypatch: pytest.MonkeyPatch, proved: list[Any]
) -> None:
    monkeypatch.setattr(variant_maker, "measure_sensitivity", lambda *_, **__: pytest.fail("nobody asked"))
    result = again(tmp_path / "bundle", give_back=True)
    result.require_passed()
    assert len(proved) == 2
    assert all("wider precision" not in text for item in result.entries for text in item.warnings)


def test_where_nothing_helps_it_ends_and_the_first_try_is_what_is_refused(
    tmp_path: Path, again: Again, monkeypatch: pytest.MonkeyPatch, proved: list[Any]
) -> None:
    monkeypatch.setattr("hybrid_edge.export.convert.recurrent.KERAS_TO_ONNX", {"LSTM": (0, 1, 2, 3)})
    result = again(tmp_path / "bundle", give_back=True)
    assert result.written == ()
    assert not result.bundle.exists()
    # each group once; the CPU's first convolution is in float already
    assert len(proved) == 2 * (1 + LAYERS) - 1
    for entry, count in zip(result.entries, ("2/3", "3/3"), strict=True):
        assert f"{count} convolutions INT8" in entry.branches[0]
        assert "order of the recurrent layers' gates" in entry.refused
