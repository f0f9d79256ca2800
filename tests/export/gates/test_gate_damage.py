"""The gate on a damaged export: weights, gates, preprocessing, rows that depend on others, NaN; each is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.models.damage import DAMAGES, damaged_backend, with_weak_convolution
from support.models.gated import SIZES, judged, labelled

from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import require_passed
from hybrid_edge.runtime import preprocess
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.errors import BackendError, ParityError
from hybrid_edge.runtime.manifest import Precision
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
    assert parity.logit_limit is not None
    assert parity.probability_limit is not None
    assert parity.max_logit_error > 10 * parity.logit_limit
    assert parity.max_probability_error > 10 * parity.probability_limit
    with pytest.raises(ParityError, match=r"(?s)expected at most 0.0001, found .*Likely cause: another computation"):
        require_passed(parity, "fp32-cpu")


@pytest.mark.parametrize("size", SIZES)
def test_a_damaged_weight_or_swapped_gates_pass_the_gate_of_no_precision(
    size: str, references: Any, tmp_path: Path
) -> None:
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
def test_a_row_that_depends_on_its_neighbours_is_seen_in_every_precision(
    precision: Precision, digits: tuple[Any, Reference]
) -> None:
    exported, reference = digits
    for kind in (Coupled, ScaledOverBatch):
        with kind(exported.graph, exported.spec) as backend:
            parity = judged(reference, backend, precision)
        assert parity.neighbour_error is not None
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
        assert parity.sequence_error is not None
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
