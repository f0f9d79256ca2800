"""The gate on a sound export: agreement with Keras, the documented limits, single branches, warnings, drift."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models.gated import SIZES, judged
from support.models.lowered import SMALL, VARIANTS, Array, Source, opened, tensors_of

from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.gates.gate import BatchRows
from hybrid_edge.export.gates.hidden_states import hidden_drift, relative_drift
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import GateLimits, require_passed
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.errors import ParityError
from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.data import LabelledImage
from hybrid_edge.train.model import build_model

LABELS = tuple("0123456789")


def loaded(model: Any, spec: ModelSpec, folder: Path) -> OnnxRuntimeCpu:
    file = folder / "model.onnx"
    file.write_bytes(serialize(GraphBuilder(model, spec).build()))
    return OnnxRuntimeCpu(file, spec)


class Rounded(OnnxRuntimeCpu):
    """Logits that passed through FP16."""

    def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
        logits, probabilities = super()._infer(tensors)
        return logits.astype(np.float16).astype(np.float32), probabilities


@pytest.mark.parametrize("size", SIZES)
def test_an_exported_model_agrees_with_keras_within_every_limit(size: str, references: Any) -> None:
    exported, reference = references(size)
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        parity = judged(reference, backend)
    require_passed(parity, "fp32-cpu")
    assert parity.passed
    assert parity.images == 11
    assert parity.max_logit_error <= 1e-4
    assert parity.max_probability_error <= (1e-5 if size == "digits" else 1e-4)
    assert parity.batch_error <= 1e-5
    assert parity.neighbour_error == 0
    assert parity.sequence_error <= 1e-6
    assert (parity.top1_agreement, parity.confident_agreement, parity.top5_overlap) == (1, 1, 1)
    assert 1 <= parity.confident_images <= 11
    assert parity.flips == 0
    assert parity.warnings == ()
    assert "ONNX Runtime" in parity.measured_on


def test_small_differences_are_called_a_matter_of_precision(digits: tuple[Any, Reference]) -> None:
    with Rounded(digits[0].graph, digits[0].spec) as backend:
        with pytest.raises(ParityError, match="reduced precision"):
            require_passed(judged(digits[1], backend), "fp32-cpu")
        require_passed(judged(digits[1], backend, "fp16"), "fp16-cuda")


def test_an_untrained_model_passes_warned_that_it_proves_little(images: list[LabelledImage], tmp_path: Path) -> None:
    spec = preset("digits").replace(class_labels=LABELS)
    model = build_model(spec)
    reference = Reference.of(model, spec, images)
    with loaded(model, spec, tmp_path) as backend:
        parity = judged(reference, backend)
        unlabelled = judged(reference, backend, "int8")
    require_passed(parity, "fp32-cpu")
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
    require_passed(parity, "fp32-cpu")
    assert parity.images == 3
    assert (parity.sequence_error is None) == (branches == "cnn")
    assert (reference.hidden is None) == (branches == "cnn")


def test_the_limits_are_the_documented_ones() -> None:
    digits, full = preset("digits"), ModelSpec()
    both = {"neighbour": 1e-5, "sequence": 1e-6}
    assert GateLimits.for_precision("fp32", digits) == GateLimits(logits=1e-4, probabilities=1e-5, batch=1e-5, **both)
    assert GateLimits.for_precision("fp32", full) == GateLimits(logits=1e-4, probabilities=1e-4, batch=1e-5, **both)
    assert GateLimits.for_precision("fp16", full) == GateLimits(agreement=0.995, **both)
    assert GateLimits.for_precision("int8", full) == GateLimits(confident=0.99, max_drop=0.005, **both)
    assert GateLimits.for_precision("int8", full, max_drop=0.01).max_drop == 0.01


def test_drift_is_the_rms_difference_at_each_timestep(references: Any) -> None:
    hidden = references("reduced")[1].hidden
    factors = np.linspace(1, 1.5, hidden.shape[0])[:, None, None]
    drift = relative_drift(hidden, (hidden[:, first : first + 8] * factors for first in (0, 8)))
    np.testing.assert_allclose(drift, factors[:, 0, 0] - 1, atol=1e-6)


def test_a_model_without_recurrent_branch_has_no_drift() -> None:
    assert hidden_drift(onnx.ModelProto(), None, lambda _: pytest.fail("not to be run")) == ()


LIMIT = 1e-5  # of max |logit|
CNN = SMALL.replace(branches="cnn")


def neighbour_error(model: onnx.ModelProto, spec: ModelSpec, variant: str = "fp32") -> float:
    """Over max |logit|."""
    tensors = tensors_of(spec, 8)
    with opened(model, spec, variant) as backend:
        return BatchRows(backend, tensors).neighbour_error() / float(np.abs(backend.run(tensors).logits).max())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["lstm", "unrolled"])
def test_no_row_of_any_variant_depends_on_an_outlier_beside_it(form: str, variant: str, small_source: Source) -> None:
    assert neighbour_error(small_source.lower(variant, form), small_source.spec, variant) <= LIMIT


@pytest.mark.parametrize("variant", ["int8-tensorrt", "int8-cpu"])
def test_no_row_depends_on_its_neighbours_where_layers_were_given_back(variant: str, small_source: Source) -> None:
    for wider in (["rnn/lstm_1"], ["rnn/lstm_1", "rnn/lstm_2"]):
        model = small_source.lower(variant, "unrolled", wider)
        assert neighbour_error(model, small_source.spec, variant) <= LIMIT


def linear(*, dynamic: bool) -> onnx.ModelProto:
    """Logits of the pixels by one INT8 product, whose input has a scale of the graph's, or one of each batch's own."""
    rng = np.random.default_rng(0)
    size = 3 * CNN.image_size**2
    constants: dict[str, Array] = {
        "weight": rng.integers(-100, 100, (size, CNN.num_classes), np.int8),
        "weight_zero": np.array(0, np.int8),
        "weight_scale": np.array(1e-3, np.float32),
        "scale": np.array(2 / 255, np.float32),
        "zero": np.array(128, np.uint8),
    }
    quantized = (
        helper.make_node("DynamicQuantizeLinear", ["flat"], ["integers", "own_scale", "own_zero"])
        if dynamic
        else helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["integers"])
    )
    scale, zero = ("own_scale", "own_zero") if dynamic else ("scale", "zero")
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        quantized,
        helper.make_node("MatMulInteger", ["integers", "weight", zero, "weight_zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["product"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, "weight_scale"], ["both"]),
        helper.make_node("Mul", ["product", "both"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    values = {"image": CNN.image_shape, "logits": (CNN.num_classes,), "probabilities": (CNN.num_classes,)}
    image, *outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in values.items()
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "linear", [image], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_one_scale_over_the_whole_batch_is_seen() -> None:
    assert neighbour_error(linear(dynamic=False), CNN) <= LIMIT
    assert neighbour_error(linear(dynamic=True), CNN) > 1e3 * LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_of_1_3_and_8_give_the_same_rows_but_for_rounding(variant: str, small_source: Source) -> None:
    tensors = tensors_of(small_source.spec, 8)
    with opened(small_source.lower(variant, "unrolled"), small_source.spec, variant) as backend:
        error = BatchRows(backend, tensors).batch_error() / float(np.abs(backend.run(tensors).logits).max())
    assert error <= (LIMIT if variant == "fp32" else 0.02)
