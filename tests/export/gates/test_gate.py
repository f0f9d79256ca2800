from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from damage import DAMAGES, damaged_backend, with_weak_convolution
from onnx import numpy_helper
from standin import write_crops

from hybrid_edge.export.gates import gate
from hybrid_edge.export.gates.gate import Limits, measure, measure_drift
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import require
from hybrid_edge.export.graphs.build import build_graph, serialize
from hybrid_edge.runtime import preprocess
from hybrid_edge.runtime.backends.base import Backend
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.errors import BackendError, ParityError
from hybrid_edge.runtime.manifest import Parity, Precision
from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.data import LabelledImage
from hybrid_edge.train.model import build_model

Array = npt.NDArray[np.float32]

SIZES = ("digits", "reduced")
LABELS = tuple("0123456789")
PRECISIONS = get_args(Precision)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    """Eleven crops, of no class that the digits know."""
    folder = write_crops(tmp_path_factory.mktemp("crops"), 11, seed=5)
    return [LabelledImage(path, "crop") for path in sorted(folder.rglob("*.png"))]


@pytest.fixture(scope="module")
def references(images: list[LabelledImage], request: pytest.FixtureRequest) -> Callable[[str], tuple[Any, Reference]]:
    """An export by its size, and what its Keras model gives."""
    kept: dict[str, tuple[Any, Reference]] = {}

    def find(size: str) -> tuple[Any, Reference]:
        if size not in kept:
            exported = request.getfixturevalue(f"exported_{size}")
            kept[size] = exported, Reference.of(exported.model, exported.spec, images)
        return kept[size]

    return find


@pytest.fixture
def digits(references: Any) -> tuple[Any, Reference]:
    return references("digits")  # type: ignore[no-any-return]


def labelled(reference: Reference) -> Reference:
    """Keras's own labels taken as the truth."""
    classes = reference.spec.class_labels
    truth = [LabelledImage(i.path, classes[row]) for i, row in zip(reference.images, reference.labels, strict=True)]
    return replace(reference, images=tuple(truth))


def judged(reference: Reference, backend: Backend, precision: Precision = "fp32") -> Parity:
    limits = Limits.for_precision(precision, reference.spec)
    return measure(reference, backend, precision=precision, simulated=False, limits=limits).parity


def loaded(model: Any, spec: ModelSpec, folder: Path) -> OnnxRuntimeCpu:
    file = folder / "model.onnx"
    file.write_bytes(serialize(build_graph(model, spec)))
    return OnnxRuntimeCpu(file, spec)


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


class Rounded(OnnxRuntimeCpu):
    """Logits that passed through FP16."""

    def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
        logits, probabilities = super()._infer(tensors)
        return logits.astype(np.float16).astype(np.float32), probabilities


class Mistaken(OnnxRuntimeCpu):
    """Gives the images whose inputs are listed the second label in place of the first."""

    inputs: tuple[Array, ...] = ()

    def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
        logits, probabilities = super()._infer(tensors)
        for row, image in enumerate(tensors["image"]):
            if any(np.array_equal(image, other) for other in self.inputs):
                for values in (logits, probabilities):
                    first, second = np.argsort(-values[row])[:2]
                    values[row, [first, second]] = values[row, [second, first]]
        return logits, probabilities

    def mistake(self, reference: Reference, rows: list[int]) -> None:
        tensors = np.concatenate([batch["image"] for batch in reference.batches()])
        self.inputs = tuple(tensors[row] for row in rows)


@pytest.mark.parametrize("size", SIZES)
def test_an_exported_model_agrees_with_keras_within_every_limit(size: str, references: Any) -> None:
    exported, reference = references(size)
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        parity = judged(reference, backend)
    require(parity, "fp32-cpu")
    assert parity.passed
    assert parity.images == 11
    assert parity.max_logit_error <= 1e-4
    assert parity.max_probability_error <= (1e-5 if size == "digits" else 1e-4)
    assert parity.batch_error <= 1e-5
    assert parity.neighbour_error == 0
    assert parity.sequence_error is not None
    assert parity.sequence_error <= 1e-6
    assert (parity.top1_agreement, parity.confident_agreement, parity.top5_overlap) == (1, 1, 1)
    assert 1 <= parity.confident_images <= 11
    assert parity.flips == 0
    assert parity.warnings == ()
    assert "ONNX Runtime" in parity.measured_on


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
        require(parity, "fp32-cpu")


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
                    require(parity, f"{precision}-tensorrt")


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
            require(parity, f"{precision}-cpu")


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
            require(judged(digits[1], backend), "fp32-cpu")
        require(judged(digits[1], backend, "fp16"), "fp16-cuda")


def test_a_preprocessing_that_drifted_from_the_model_is_seen(
    digits: tuple[Any, Reference], images: list[LabelledImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = digits[0]
    monkeypatch.setattr(preprocess, "MEAN", np.array([[0.299, 0.587, 0.114]], np.float32))
    reference = Reference.of(exported.model, exported.spec, images)
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        parities = [judged(reference, backend, precision) for precision in PRECISIONS]
    for parity, precision in zip(parities, PRECISIONS, strict=True):
        assert parity.sequence_error is not None
        assert parity.sequence_error > 1e-2
        with pytest.raises(ParityError, match="sequence is not the model's own"):
            require(parity, f"{precision}-cpu")


def test_small_differences_are_called_a_matter_of_precision(digits: tuple[Any, Reference]) -> None:
    with Rounded(digits[0].graph, digits[0].spec) as backend:
        with pytest.raises(ParityError, match="reduced precision"):
            require(judged(digits[1], backend), "fp32-cpu")
        require(judged(digits[1], backend, "fp16"), "fp16-cuda")


def test_an_untrained_model_passes_with_the_warning_that_it_proves_little(
    images: list[LabelledImage], tmp_path: Path
) -> None:
    spec = preset("digits").replace(class_labels=LABELS)
    model = build_model(spec)
    reference = Reference.of(model, spec, images)
    with loaded(model, spec, tmp_path) as backend:
        parity = judged(reference, backend)
        unlabelled = judged(reference, backend, "int8")
    require(parity, "fp32-cpu")
    assert "nearly flat" in parity.warnings[0]
    assert "alike for all images" in parity.warnings[1]
    # no label and no confident image: there must be something left to judge INT8 by
    assert (unlabelled.accuracy, unlabelled.confident_agreement, unlabelled.agreement_limit) == (None, None, 0.99)


def test_a_recurrent_branch_that_does_nothing_is_warned_of(
    digits: tuple[Any, Reference], images: list[LabelledImage], tmp_path: Path
) -> None:
    exported = digits[0]
    model = build_model(exported.spec)
    model.set_weights(exported.model.get_weights())
    kernel, recurrent, bias = model.get_layer("rnn").get_layer("lstm_1").get_weights()
    model.get_layer("rnn").get_layer("lstm_1").set_weights([kernel * 0, recurrent, bias])
    with loaded(model, exported.spec, tmp_path) as backend:
        parity = judged(Reference.of(model, exported.spec, images), backend)
    assert any("recurrent branch hardly counts" in warning for warning in parity.warnings)


@pytest.mark.parametrize("branches", ["cnn", "rnn"])
def test_one_branch_alone_is_compared_too(branches: Any, images: list[LabelledImage], tmp_path: Path) -> None:
    spec = preset("digits", branches).replace(class_labels=LABELS)
    model = build_model(spec)
    reference = Reference.of(model, spec, images[:3])
    with loaded(model, spec, tmp_path) as backend:
        parity = judged(reference, backend)
    require(parity, "fp32-cpu")
    assert parity.images == 3
    assert (parity.sequence_error is None) == (branches == "cnn")
    assert (reference.hidden is None) == (branches == "cnn")


def test_flips_are_counted_named_and_ranked_and_cost_agreement_and_accuracy(digits: tuple[Any, Reference]) -> None:
    exported, reference = digits[0], labelled(digits[1])
    margins = np.diff(np.sort(reference.probabilities, axis=1)[:, -2:], axis=1)[:, 0]
    rows = np.argsort(margins)[[-3, -1]].tolist()
    with Mistaken(exported.graph, exported.spec) as backend:
        backend.mistake(reference, rows)
        limits = Limits.for_precision("int8", exported.spec, max_drop=0.1)
        measured = measure(reference, backend, precision="int8", simulated=True, limits=limits)
    parity = measured.parity
    assert [flip.image for flip in measured.flips] == [reference.images[row] for row in reversed(rows)]
    worst, answers = measured.flips[0], reference.probabilities[rows[1]]
    assert worst.keras_label == worst.image.label == exported.spec.class_labels[answers.argmax()]
    assert worst.variant_label == exported.spec.class_labels[np.argsort(-answers)[1]]
    assert worst.keras_probability == pytest.approx(answers.max(), abs=1e-5)
    assert worst.margin == pytest.approx(margins.max(), abs=1e-5)
    assert (parity.flips, parity.simulated, parity.top1_agreement) == (2, True, 9 / 11)
    assert parity.top5_overlap == 1
    assert parity.accuracy is not None
    assert (parity.accuracy.keras, parity.accuracy.variant, parity.accuracy.drop) == (1, 9 / 11, 2 / 11)
    assert parity.accuracy.drop_low < 2 / 11 < parity.accuracy.drop_high
    count = parity.confident_images
    with pytest.raises(ParityError, match=rf"\(2 of {count} flipped\).*accuracy drop.*at most 0.1.*2 of 11 labels"):
        require(parity, "int8-tensorrt")


def test_fp16_is_refused_for_a_flip_below_its_agreement_with_the_counts(digits: tuple[Any, Reference]) -> None:
    exported, reference = digits
    with Mistaken(exported.graph, exported.spec) as backend:
        backend.mistake(reference, [2])
        parity = judged(reference, backend, "fp16")
    for error, cause in ((1e-3, "Keras itself hardly decides"), (0.5, "beyond FP16's range of 65,504")):
        with pytest.raises(ParityError, match=rf"at least 0.995, found 0.909091 \(1 of 11 flipped\).*{cause}"):
            require(parity.model_copy(update={"max_logit_error": error}), "fp16-cuda")


def test_without_labels_int8_is_judged_by_agreement_and_says_so(digits: tuple[Any, Reference]) -> None:
    exported, reference = digits
    with Mistaken(exported.graph, exported.spec) as backend:
        parity = judged(reference, backend, "int8")
        assert parity.accuracy is None
        assert "none of the 11 images has a label that the model knows" in parity.warnings[0]
        require(parity, "int8-cpu")
        confident = int(np.argmax(reference.probabilities.max(axis=1)))
        backend.mistake(reference, [confident])
        with pytest.raises(ParityError, match=r"where the margin is above 0.1"):
            require(judged(reference, backend, "int8"), "int8-cpu")
    known = labelled(reference)
    half = replace(reference, images=(*known.images[:5], *reference.images[5:]))
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        parity = judged(half, backend, "int8")
    assert parity.accuracy is not None
    assert parity.warnings == ("accuracy is judged on the 5 of 11 images whose label the model knows",)


def test_stale_statistics_are_named_before_the_quantizer(digits: tuple[Any, Reference]) -> None:
    exported, reference = digits
    with Mistaken(exported.graph, exported.spec) as backend:
        backend.mistake(reference, list(range(11)))
        parity = judged(reference, backend, "int8")
    with pytest.raises(ParityError, match=r"Likely cause: calibration ranges that don't fit"):
        require(parity, "int8-cpu")
    with pytest.raises(ParityError, match=r"Likely cause: activations run far .*calibration ranges"):
        require(parity, "int8-cpu", stale="activations run far beyond those in training")


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
    require(parity, f"{precision}-cpu")
    with pytest.raises(ParityError):
        require(parity.model_copy(update=change), f"{precision}-cpu")


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


def test_a_simulated_variant_runs_on_the_first_images_and_the_callback_counts_them(
    digits: tuple[Any, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, reference = digits
    monkeypatch.setattr(gate, "SIMULATED_IMAGES", 9)
    limits, seen = Limits.for_precision("fp16", exported.spec), list[int]()
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        run: Any = {"precision": "fp16", "limits": limits, "on_batch": seen.append}
        assert measure(reference, backend, simulated=True, **run).parity.images == 9
        assert seen == [8, 1]
        assert measure(reference, backend, simulated=False, **run).parity.images == 11
        assert measure(reference, backend, simulated=True, count=4, **run).parity.images == 4


@pytest.mark.parametrize(("mistakes", "on"), [(0, 6), (1, 11), (6, 6)])
def test_accuracy_that_a_few_images_lost_perhaps_by_chance_is_judged_on_all(
    digits: tuple[Any, Reference], monkeypatch: pytest.MonkeyPatch, mistakes: int, on: int
) -> None:
    exported, reference = digits[0], labelled(digits[1])
    monkeypatch.setattr(gate, "SIMULATED_IMAGES", 6)
    with Mistaken(exported.graph, exported.spec) as backend:
        backend.mistake(reference, list(range(mistakes)))
        measured = measure(reference, backend, precision="int8", simulated=True, limits=Limits(max_drop=0.1))
    assert (measured.parity.images, measured.parity.passed) == (on, mistakes < 2)


def test_the_limits_are_the_documented_ones() -> None:
    digits, full = preset("digits"), ModelSpec()
    both = {"neighbour": 1e-5, "sequence": 1e-6}
    assert Limits.for_precision("fp32", digits) == Limits(logits=1e-4, probabilities=1e-5, batch=1e-5, **both)
    assert Limits.for_precision("fp32", full) == Limits(logits=1e-4, probabilities=1e-4, batch=1e-5, **both)
    assert Limits.for_precision("fp16", full) == Limits(agreement=0.995, **both)
    assert Limits.for_precision("int8", full) == Limits(confident=0.99, max_drop=0.005, **both)
    assert Limits.for_precision("int8", full, max_drop=0.01).max_drop == 0.01


def test_drift_is_the_rms_difference_at_each_timestep(references: Any) -> None:
    _, reference = references("reduced")
    hidden, done = reference.hidden, 0
    factors = np.linspace(1, 1.5, hidden.shape[0])[:, None, None]

    def drifting(tensors: dict[str, Array]) -> Any:
        nonlocal done
        rows = len(tensors["sequence"])
        done += rows
        return hidden[:, done - rows : done] * factors

    drift = measure_drift(reference, drifting)
    assert done == 11
    np.testing.assert_allclose(drift, factors[:, 0, 0] - 1, atol=1e-6)


def test_a_model_without_recurrent_branch_has_no_drift(digits: tuple[Any, Reference]) -> None:
    assert measure_drift(replace(digits[1], hidden=None), lambda _: pytest.fail("not to be run")) == ()


def test_the_weak_convolution_is_one_weight_of_the_graph(digits: tuple[Any, Reference]) -> None:
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.ModelProto.FromString(graph).graph.initializer}
        for graph in (digits[0].graph.read_bytes(), with_weak_convolution(digits[0].graph.read_bytes()))
    )
    assert sum(not np.array_equal(before[name], after[name]) for name in before) == 1
