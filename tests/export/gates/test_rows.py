from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models.lowered import SMALL, VARIANTS, Array, Source, opened, tensors_of

from hybrid_edge.export.gates.gate import BatchRows
from hybrid_edge.runtime.spec import ModelSpec

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
    infos = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in values.items()
    }
    graph = helper.make_graph(
        nodes,
        "linear",
        [infos["image"]],
        [infos["logits"], infos["probabilities"]],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
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
