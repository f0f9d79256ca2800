"""The gate on a damaged export: weights, gates, preprocessing, rows that depend on others, NaN; each is refused."""

from collections.abc import Callable
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.models.damage import (
    DAMAGES,
    damaged_backend,
    with_keras_gate_order,
    with_swapped_steps,
    with_weak_convolution,
)
from support.models.gated import SIZES, judged, labelled
from support.models.lowered import INT8_ERROR, Source, is_simulated, opened
from support.models.standin import write_crops

from hybrid_edge.calib import Range
from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.gates.comparison import KerasComparison
from hybrid_edge.export.gates.gate import run_gate
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import GateLimits, require_passed
from hybrid_edge.runtime import preprocess
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.errors import BackendError, ParityError
from hybrid_edge.runtime.manifest import Parity, Precision
from hybrid_edge.train.data import LabelledImage

PRECISIONS = get_args(Precision)


class Coupled(OnnxRuntimeCpu):
    """Every row takes a little of the mean of its batch."""

    def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
        logits, probabilities = super()._infer(tensors)
        return logits + np.float32(1e-3) * logits.mean(axis=0), probabilities


class ScaledOverBatch(OnnxRuntimeCpu):
    """Inputs in 8 bits by one scale for the whole batch, as DynamicQuantizeLinear does."""

    def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
        rounded = {}
        for name, tensor in tensors.items():
            scale = np.float32(np.abs(tensor).max() / 127)
            rounded[name] = np.round(tensor / scale) * scale
        return super()._infer(rounded)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("size", SIZES)
def test_damage_by_hand_is_seen(size: str, damage: str, references: Any, tmp_path: Path) -> None:
    exported, reference = references(size)
    with damaged_backend(damage, exported.graph, exported.spec, tmp_path) as backend:
        parity = judged(reference, backend)
    assert parity.max_logit_error > 10 * parity.logit_limit
    assert parity.max_probability_error > 10 * parity.probability_limit
    with pytest.raises(ParityError, match=r"(?s)expected at most 0.0001, found .*Likely cause: another computation"):
        require_passed(parity, "fp32-cpu")


@pytest.mark.parametrize("size", SIZES)
def test_a_damaged_weight_or_swapped_gates_pass_no_precisions_gate(size: str, references: Any, tmp_path: Path) -> None:
    exported, reference = references(size)
    damaged = tmp_path / "weight.onnx"
    damaged.write_bytes(with_weak_convolution(exported.graph.read_bytes()))
    gates = damaged_backend("gate order", exported.graph, exported.spec, tmp_path)
    for backend in (OnnxRuntimeCpu(damaged, exported.spec), gates):
        with backend:
            for precision in PRECISIONS:
                parity = judged(labelled(reference), backend, precision)
                with pytest.raises(ParityError, match=r"Likely cause: .*damaged weight"):
                    require_passed(parity, f"{precision}-tensorrt")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_dependence_on_other_rows_is_seen_in_any_precision(precision: Precision, digits: tuple[Any, Reference]) -> None:
    exported, reference = digits
    for kind in (Coupled, ScaledOverBatch):
        with kind(exported.graph, exported.spec) as backend:
            parity = judged(reference, backend, precision)
        assert parity.neighbour_error > 1e-5
        with pytest.raises(ParityError, match="depends on its neighbours"):
            require_passed(parity, f"{precision}-cpu")


def test_a_neighbour_that_overflows_alone_is_no_fault(digits: tuple[Any, Reference]) -> None:
    class Overflowing(OnnxRuntimeCpu):
        def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
            logits, probabilities = super()._infer(tensors)
            logits[np.abs(tensors["image"]).max(axis=(1, 2, 3)) > 20] = np.inf
            return logits, probabilities

    with Overflowing(digits[0].graph, digits[0].spec) as backend:
        assert judged(digits[1], backend).neighbour_error == 0


def test_batches_of_other_sizes_are_judged_in_fp32_alone(digits: tuple[Any, Reference]) -> None:
    class SizeDependent(OnnxRuntimeCpu):
        def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
            logits, probabilities = super()._infer(tensors)
            return logits * np.float32(1 + 1e-4 / len(logits)), probabilities

    with SizeDependent(digits[0].graph, digits[0].spec) as backend:
        assert judged(digits[1], backend).batch_error > 1e-5
        with pytest.raises(ParityError, match="batches of 1, 3 and 8"):
            require_passed(judged(digits[1], backend), "fp32-cpu")
        require_passed(judged(digits[1], backend, "fp16"), "fp16-cuda")


def test_a_preprocessing_that_drifted_from_the_model_is_seen(
    digits: tuple[Any, Reference], images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = digits[0]
    monkeypatch.setattr(preprocess, "CHANNEL_MEAN", np.array([[0.299, 0.587, 0.114]], np.float32))
    reference = Reference.of(exported.model, exported.spec, images)
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        parities = [judged(reference, backend, precision) for precision in PRECISIONS]
    for parity, precision in zip(parities, PRECISIONS, strict=True):
        assert parity.sequence_error > 1e-2
        with pytest.raises(ParityError, match="sequence is not the model's own"):
            require_passed(parity, f"{precision}-cpu")


@pytest.mark.parametrize(
    ("precision", "change"),
    [
        ("fp32", {"max_logit_error": np.nan}),
        ("fp32", {"max_probability_error": np.nan}),
        ("fp32", {"batch_error": np.nan}),
        ("fp16", {"top1_agreement": np.nan}),
        ("fp16", {"neighbour_error": np.nan}),
        ("int8", {"confident_agreement": np.nan}),
        ("int8", {"sequence_error": np.nan}),
    ],
)
def test_nan_is_over_every_limit(precision: Precision, change: dict[str, float], digits: tuple[Any, Reference]) -> None:
    with OnnxRuntimeCpu(digits[0].graph, digits[0].spec) as backend:
        parity = judged(digits[1], backend, precision)
    require_passed(parity, f"{precision}-cpu")
    with pytest.raises(ParityError):
        require_passed(parity.model_copy(update=change), f"{precision}-cpu")


def test_a_variant_that_gives_nan_is_refused_by_its_gate(digits: tuple[Any, Reference]) -> None:
    class Overflowed(OnnxRuntimeCpu):
        def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
            logits, probabilities = super()._infer(tensors)
            return logits * np.float32(np.nan), probabilities

    with (
        Overflowed(digits[0].graph, digits[0].spec) as backend,
        pytest.raises(ParityError, match=r"fp16 could not be compared .* NaN or infinity") as caught,
    ):
        judged(digits[1], backend, "fp16")
    assert isinstance(caught.value.__cause__, BackendError)


def test_the_weak_convolution_is_one_weight_of_the_graph(digits: tuple[Any, Reference]) -> None:
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.ModelProto.FromString(graph).graph.initializer}
        for graph in (digits[0].graph.read_bytes(), with_weak_convolution(digits[0].graph.read_bytes()))
    )
    assert sum(not np.array_equal(before[name], after[name]) for name in before) == 1


FORMS = ("lstm", "unrolled")
INT8 = ("int8-tensorrt", "int8-cpu")
CROPS = 24
DECIDED = 12  # at least


@pytest.fixture(scope="module")
def reference(exported_digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Keras on crops that it decides (the stand-in was fitted on a few hundred), its own labels as the truth."""
    paths = sorted(write_crops(tmp_path_factory.mktemp("gate"), CROPS, seed=5).rglob("*.png"))
    images = [LabelledImage(path, "") for path in paths]
    found = labelled(Reference.of(exported_digits.model, exported_digits.spec, images, hidden_images=1))
    kept = KerasComparison(found.logits, found.logits, found.probabilities, found.probabilities).confident
    assert kept.sum() >= DECIDED
    decided = tuple(compress(found.images, kept))
    return replace(found, images=decided, logits=found.logits[kept], probabilities=found.probabilities[kept])


def judged_graph(reference: Reference, model: onnx.ModelProto, variant: str) -> Parity:
    precision: Precision = "int8" if variant.startswith("int8") else "fp16"
    limits = GateLimits.for_precision(precision, reference.spec)
    with opened(model, reference.spec, variant) as backend:
        return run_gate(reference, backend, precision=precision, simulated=is_simulated(variant), limits=limits).parity


def damaged(change: Callable[[bytes], bytes], model: onnx.ModelProto) -> onnx.ModelProto:
    before = serialize(model)
    after = change(before)
    assert after != before
    return onnx.ModelProto.FromString(after)


@pytest.mark.parametrize("variant", ["fp16", *INT8])
@pytest.mark.parametrize("form", FORMS)
def test_an_undamaged_variant_passes(form: str, variant: str, digits_source: Source, reference: Reference) -> None:
    parity = judged_graph(reference, digits_source.lower(variant, form), variant)
    require_passed(parity, variant)
    assert parity.max_logit_error < (0.01 if variant == "fp16" else 2 * INT8_ERROR)  # the largest of hundreds


@pytest.mark.parametrize("variant", INT8)
@pytest.mark.parametrize("form", FORMS)
def test_ranges_divided_by_8_are_refused(form: str, variant: str, digits_source: Source, reference: Reference) -> None:
    ranges = digits_source.signed if variant == "int8-tensorrt" else digits_source.unsigned
    eighths = {name: Range(item.low / 8, item.high / 8) for name, item in ranges.items()}
    parity = judged_graph(reference, digits_source.lower(variant, form, ranges=eighths), variant)
    assert parity.confident_agreement < 0.9
    assert parity.accuracy.drop > 0.1
    with pytest.raises(ParityError, match="Likely cause: calibration ranges that don't fit these activations"):
        require_passed(parity, variant)


@pytest.mark.parametrize("variant", ["fp16", *INT8])
def test_a_damaged_weight_is_refused(variant: str, digits_source: Source, reference: Reference) -> None:
    model = damaged(with_weak_convolution, digits_source.lower(variant, "unrolled"))
    with pytest.raises(ParityError, match="damaged weight"):
        require_passed(judged_graph(reference, model, variant), variant)


@pytest.mark.parametrize(
    ("variant", "form"),
    [("fp16", "lstm"), ("int8-tensorrt", "lstm"), *((name, "unrolled") for name in ("fp16", *INT8))],
)
def test_swapped_gates_are_refused(variant: str, form: str, digits_source: Source, reference: Reference) -> None:
    change = with_keras_gate_order if form == "lstm" else with_swapped_steps
    model = damaged(change, digits_source.lower(variant, form))
    with pytest.raises(ParityError, match=r"gate order|order of the recurrent layers' gates"):
        require_passed(judged_graph(reference, model, variant), variant)
