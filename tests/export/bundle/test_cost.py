"""Costs read off graphs, against counts made by hand from the architecture."""

from collections.abc import Iterable
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from support.models.lowered import VARIANTS, Source
from support.models.whole import Whole

from hybrid_edge.export.bundle.cost import measure_cost
from hybrid_edge.export.convert.graph_reading import tensor_shapes
from hybrid_edge.runtime.errors import ConversionError
from hybrid_edge.runtime.roofline import BranchCost, WeightReads
from hybrid_edge.train.backbone_list import cnn_cost, recurrent_cost

FORMS = ("lstm", "unrolled")
# 3x3 convolutions of 32, 64 and 128 channels at 28, 14 and 7 pixels, and a Dense layer of 128
DIGITS_CNN = 28**2 * 32 * 27 + 14**2 * 64 * 288 + 7**2 * 128 * 576 + 4 * 4 * 128 * 128


def lstm(steps: int, inputs: int, units: int) -> int:
    """One layer: the input at every step, the state at every step but the first, at which it is zero."""
    return steps * inputs * 4 * units + (steps - 1) * units * 4 * units


def xception(size: int) -> int:
    """Of the published architecture (Chollet 2017, figure 5), without its classifier."""

    def separable(side: int, taken: int, given: int) -> int:
        return side**2 * taken * (9 + given)

    side = (size - 3) // 2 + 1
    total = side**2 * 27 * 32
    side -= 2
    total += side**2 * 9 * 32 * 64
    channels = 64
    for wider in (128, 256, 728):
        total += separable(side, channels, wider) + separable(side, wider, wider)
        side, taken, channels = -(-side // 2), channels, wider
        total += side**2 * taken * wider
    total += 3 * 8 * separable(side, 728, 728) + separable(side, 728, 728) + separable(side, 728, 1024)
    side = -(-side // 2)
    return total + side**2 * 728 * 1024 + separable(side, 1024, 1536) + separable(side, 1536, 2048)


def total(branch: BranchCost) -> int:
    return sum(branch.macs.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_graph_in_any_precision_and_form_multiplies_as_often_as_its_architecture_says(
    small_source: Source, variant: str, form: str
) -> None:
    cost = measure_cost(small_source.lower(variant, form))
    assert total(cost.cnn) == DIGITS_CNN
    assert total(cost.recurrent) == lstm(28, 28, 16) + lstm(28, 16, 16) + 16 * 128  # and the projection
    assert total(cost.head) == 128 * 5


@pytest.mark.parametrize("form", FORMS)
def test_what_hybrid_train_lists_before_training_is_what_a_graph_costs_after_it(
    small_source: Source, form: str
) -> None:
    cost, spec = measure_cost(small_source.lower("fp32", form)), small_source.spec
    cnn, recurrent = cnn_cost(spec, "fp32"), recurrent_cost(spec, "fp32")
    assert cost.cnn.macs == cnn.macs
    assert cost.cnn.weight_bytes == pytest.approx(cnn.weight_bytes, rel=1e-3)
    assert total(cost.recurrent) == total(recurrent) + 16 * 128  # a hybrid's projection is not listed
    assert cost.recurrent.weight_bytes == pytest.approx(recurrent.weight_bytes + 4 * 16 * 128, rel=0.1)  # and biases


@pytest.mark.parametrize(
    ("variant", "form", "cnn", "recurrent"),
    [
        ("fp32", "lstm", {"fp32"}, {"fp32"}),
        ("fp16", "unrolled", {"fp16"}, {"fp16"}),
        ("int8-tensorrt", "lstm", {"int8"}, {"fp16"}),
        ("int8-tensorrt", "unrolled", {"int8"}, {"int8", "fp16"}),  # the projection stays in FP16
        ("int8-cpu", "unrolled", {"int8"}, {"int8", "fp32"}),
    ],
)
def test_products_are_counted_in_the_arithmetic_that_they_run_in(
    small_source: Source, variant: str, form: str, cnn: set[str], recurrent: set[str]
) -> None:
    cost = measure_cost(small_source.lower(variant, form))
    assert [set(branch.macs) for branch in (cost.cnn, cost.recurrent, cost.head)] == [cnn, recurrent, {"fp32"}]


@pytest.mark.parametrize("variant", VARIANTS)
def test_xception_multiplies_as_often_as_its_architecture_says(reduced_source: Source, variant: str) -> None:
    spec = reduced_source.spec
    cost = measure_cost(reduced_source.lower(variant, "unrolled"))
    width = spec.image_size**2 // spec.timesteps
    layers = lstm(spec.timesteps, width, spec.rnn_units) + lstm(spec.timesteps, spec.rnn_units, spec.rnn_units)
    assert total(cost.cnn) == xception(spec.image_size)
    assert total(cost.recurrent) == layers + spec.rnn_units * 2048
    assert xception(299) == 8_355_355_496  # 8.36 GMAC at the reference size


def test_the_reference_recurrent_branch_reads_its_weights_once_a_step() -> None:
    """23 steps of 3887 values, two LSTMs of 2048, by their shapes alone: 330 MB of weights are not needed."""
    cost = measure_cost(recurrent_shapes(steps=23, inputs=3887, units=2048))
    recurrent = cost.recurrent
    assert recurrent.macs == {"fp32": 23 * 3887 * 8192 + (22 + 23 + 22) * 2048 * 8192}
    state = 4 * 2048 * 8192
    assert [item for item in recurrent.weights if item.times > 1] == [WeightReads(state, 22)] * 2
    once = 4 * (3887 * 8192 + 2048 * 8192 + 2 * 2 * 8192)  # input weights and biases
    assert recurrent.weight_bytes - 2 * state - once < 64  # axes of the operators around them
    assert cost.cnn is None


@pytest.mark.parametrize(
    ("variant", "form", "width"), [("fp32", "lstm", 4), ("fp16", "lstm", 2), ("fp16", "unrolled", 2)]
)
def test_weights_are_counted_as_they_are_stored(digits_source: Source, variant: str, form: str, width: int) -> None:
    cost = measure_cost(digits_source.lower(variant, form))
    units = digits_source.spec.rnn_units
    assert {item.times for item in cost.cnn.weights} == {1}
    assert WeightReads(units * 4 * units * width, 27) in cost.recurrent.weights
    kernels = 32 * 27 + 64 * 288 + 128 * 576 + 4 * 4 * 128 * 128
    others = 32 + 64 + 128 + 128 + 16  # biases, of which equal ones are stored once; shapes
    assert width * kernels < cost.cnn.weight_bytes <= width * (kernels + others)


@pytest.mark.parametrize(("variant", "width"), [("int8-tensorrt", 1), ("int8-cpu", 1)])
def test_integer_weights_are_read_as_integers_at_each_step(digits_source: Source, variant: str, width: int) -> None:
    cost = measure_cost(digits_source.lower(variant, "unrolled"))
    units = digits_source.spec.rnn_units
    assert WeightReads(units * 4 * units * width, 27) in cost.recurrent.weights


def test_every_variant_of_a_bundle_has_the_cost_of_its_artifact(whole: Whole) -> None:
    for variant in whole.variants.values():
        model = onnx.load(whole.result.bundle / variant.file.path)
        assert variant.cost == measure_cost(model)
        weights = sum(branch.weight_bytes for branch in variant.cost.branches.values())
        assert 0.7 * variant.file.size < weights < variant.file.size


def test_one_branch_alone_costs_nothing_of_the_other(exported_digits: Any) -> None:
    assert list(exported_digits.manifest.variants[0].cost.branches) == ["cnn", "recurrent", "head"]
    assert list(measure_cost(recurrent_shapes(steps=3, inputs=4, units=2)).branches) == ["recurrent", "head"]


def test_a_tensor_whose_shape_is_not_known_is_a_typed_error() -> None:
    model = graph(
        [helper.make_node("Conv", ["image", "kernel"], ["cnn/unknown"], name="cnn/unknown")],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, None)],
        [("kernel", (1, 1, 3, 3))],
    )
    with pytest.raises(ConversionError, match="cnn/unknown"):
        tensor_shapes(model)


def recurrent_shapes(steps: int, inputs: int, units: int) -> onnx.ModelProto:
    """Two LSTM operators as the exporter writes them, and a head; the constants have shapes but no values."""
    nodes = [helper.make_node("Transpose", ["sequence"], ["rnn/time_major"], name="rnn/time_major", perm=[1, 0, 2])]
    constants: list[tuple[str, tuple[int, ...]]] = []
    value = "rnn/time_major"
    for number, width in ((1, inputs), (2, units)):
        name = f"rnn/lstm_{number}"
        weights = [f"{name}/W", f"{name}/R", f"{name}/B"]
        constants += zip(weights, [(1, 4 * units, width), (1, 4 * units, units), (1, 8 * units)], strict=True)
        outputs = [f"{name}/hidden"] if number == 1 else ["", f"{name}/hidden"]
        nodes.append(helper.make_node("LSTM", [value, *weights], outputs, name=f"{name}/hidden", hidden_size=units))
        axes = helper.make_node("Constant", [], [f"{name}/axis"], name=f"{name}/axis", value_ints=[2 - number])
        squeezed = helper.make_node("Squeeze", [f"{name}/hidden", f"{name}/axis"], [f"{name}/output"], name=f"{name}/s")
        nodes += [axes, squeezed]
        value = f"{name}/output"
    nodes.append(helper.make_node("Gemm", [value, "kernel"], ["logits"], name="logits"))
    given = helper.make_tensor_value_info("sequence", TensorProto.FLOAT, ["N", steps, inputs])
    return graph(nodes, [given], [*constants, ("kernel", (units, 10))])


def graph(
    nodes: Iterable[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], constants: Iterable[tuple[str, tuple[int, ...]]]
) -> onnx.ModelProto:
    tensors = [TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT) for name, dims in constants]
    return helper.make_model(
        helper.make_graph(list(nodes), "shapes", inputs, [], tensors), opset_imports=[helper.make_opsetid("", 17)]
    )
