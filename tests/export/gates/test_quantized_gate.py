"""Damage to a lowered graph: each kind is refused by the gate of its precision, which passes the graph as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
import pytest
from support.models.damage import with_keras_gate_order, with_swapped_steps, with_weak_convolution
from support.models.lowered import INT8_ERROR, Source, is_simulated, opened
from support.models.standin import write_crops

from hybrid_edge.calib import Range
from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.gates.comparison import KerasComparison
from hybrid_edge.export.gates.gate import run_gate
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import GateLimits, require_passed
from hybrid_edge.runtime.errors import ParityError
from hybrid_edge.runtime.manifest import Parity, Precision
from hybrid_edge.train.data import LabelledImage

FORMS = ("lstm", "unrolled")
INT8 = ("int8-tensorrt", "int8-cpu")
CROPS = 24
DECIDED = 12  # at least


@pytest.fixture(scope="module")
def reference(exported_digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Keras on crops that it decides (the stand-in was fitted on a few hundred), its own labels as the truth."""
    paths = sorted(write_crops(tmp_path_factory.mktemp("gate"), CROPS, seed=5).rglob("*.png"))
    images = [LabelledImage(path, "") for path in paths]
    found = Reference.of(exported_digits.model, exported_digits.spec, images, hidden_images=1)
    kept = KerasComparison(found.logits, found.logits, found.probabilities, found.probabilities).confident
    assert kept.sum() >= DECIDED
    classes = found.spec.class_labels
    truth = [
        replace(image, label=classes[row]) for image, row in zip(found.images, found.logits.argmax(axis=1), strict=True)
    ]
    return replace(
        found,
        images=tuple(image for image, keep in zip(truth, kept, strict=True) if keep),
        logits=found.logits[kept],
        probabilities=found.probabilities[kept],
    )


def judged(reference: Reference, model: onnx.ModelProto, variant: str) -> Parity:
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
    parity = judged(reference, digits_source.lower(variant, form), variant)
    require_passed(parity, variant)
    assert parity.max_logit_error < (0.01 if variant == "fp16" else 2 * INT8_ERROR)  # the largest of hundreds


@pytest.mark.parametrize("variant", INT8)
@pytest.mark.parametrize("form", FORMS)
def test_ranges_divided_by_8_are_refused(form: str, variant: str, digits_source: Source, reference: Reference) -> None:
    ranges = digits_source.signed if variant == "int8-tensorrt" else digits_source.unsigned
    eighths = {name: Range(item.low / 8, item.high / 8) for name, item in ranges.items()}
    parity = judged(reference, digits_source.lower(variant, form, ranges=eighths), variant)
    assert parity.confident_agreement is not None
    assert parity.confident_agreement < 0.9
    assert parity.accuracy is not None
    assert parity.accuracy.drop > 0.1
    with pytest.raises(ParityError, match="Likely cause: calibration ranges that don't fit these activations"):
        require_passed(parity, variant)


@pytest.mark.parametrize("variant", ["fp16", *INT8])
def test_a_damaged_weight_is_refused(variant: str, digits_source: Source, reference: Reference) -> None:
    model = damaged(with_weak_convolution, digits_source.lower(variant, "unrolled"))
    with pytest.raises(ParityError, match="damaged weight"):
        require_passed(judged(reference, model, variant), variant)


@pytest.mark.parametrize(
    ("variant", "form"),
    [("fp16", "lstm"), ("int8-tensorrt", "lstm"), *((name, "unrolled") for name in ("fp16", *INT8))],
)
def test_swapped_gates_are_refused(variant: str, form: str, digits_source: Source, reference: Reference) -> None:
    change = with_keras_gate_order if form == "lstm" else with_swapped_steps
    model = damaged(change, digits_source.lower(variant, form))
    with pytest.raises(ParityError, match=r"gate order|order of the LSTMs' gates"):
        require_passed(judged(reference, model, variant), variant)
