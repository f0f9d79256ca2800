import math
import re
import warnings
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from support.models.lowered import (
    SMALL,
    SMALL_RNN,
    VARIANTS,
    Source,
    constants_of,
    error_of,
    logits_of,
    makers_of,
    randomize,
    tensors_of,
)
from support.models.lowered import source_of as measured

from hybrid_edge.calib import Range
from hybrid_edge.export.convert.fp32_graph import serialize, set_versions
from hybrid_edge.export.convert.graph_reading import WEIGHT_AXIS, branch_of, quantizable, skeleton
from hybrid_edge.export.convert.graph_writer import GraphWriter
from hybrid_edge.export.quantize import gpu_graph, int8_weights
from hybrid_edge.export.quantize.gpu_graph import FP16_MAX, FP16_WARNING, ActivationPeaks, GpuGraph, too_large_weights
from hybrid_edge.export.quantize.int8_weights import bias_correction, quantize_weight
from hybrid_edge.train.model import build_model

FORMS = ("lstm", "unrolled")
SOURCES = ("digits_source", "small_source")
ON_CPU = [("int8-cpu", "small_source"), ("int8-cpu", "reduced_source")]
SHAPES = ("Cast", "Shape", "Gather", "Slice", "Concat")  # what they take or make is of other types
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> Source:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every tensor, as onnx infers it from the operators: what a strongly typed engine will take."""
    graph = onnx.shape_inference.infer_shapes(skeleton(model), strict_mode=True, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def is_wide(types: dict[str, int], node: onnx.NodeProto) -> bool:
    """Whether a node takes and makes FP32 alone."""
    found = {types[name] for name in (*node.input, *node.output) if name} & {FLOAT, FLOAT16}
    assert len(found) == 1, "a node of two types is refused by a strongly typed engine"
    return found == {FLOAT}


@pytest.mark.parametrize("form", FORMS)
def test_every_float_tensor_is_fp16_except_inputs_outputs_and_head(source: Source, form: str) -> None:
    model = source.lower("fp16", form)
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    types = types_of(model)
    found = {name: kind for name, kind in types.items() if kind in (FLOAT, FLOAT16)}
    for name, kind in found.items():
        wide = not name.endswith(":fp16") and (name in ends or branch_of(name) == "head" or name.endswith(":fp32"))
        assert kind == (FLOAT if wide else FLOAT16), name
    assert {types[name] for name in ends} == {FLOAT}
    casts = [name for name in types if name.endswith(":fp32")]
    assert len(casts) == 2  # each branch's features, for the product in FP32
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)


@pytest.mark.parametrize("form", FORMS)
def test_fp16_is_near_fp32_and_half_the_size(source: Source, form: str) -> None:
    tensors = tensors_of(source.spec, 8)
    expected = logits_of(source.forms[form], tensors)
    model = source.lower("fp16", form)
    assert 1e-6 < error_of(logits_of(model, tensors, "fp16"), expected) <= 5e-3
    nodes = len(model.graph.node) * 200  # bytes: their names weigh in a model as small as this
    assert len(serialize(model)) < 0.5 * len(serialize(source.forms[form])) + nodes


def test_what_makes_and_what_takes_a_wide_tensor_stays_in_fp32(small_source: Source) -> None:
    convolution = [node for node in small_source.forms["lstm"].graph.node if node.op_type == "Conv"][1]
    taker = next(node for node in small_source.forms["lstm"].graph.node if convolution.output[0] in node.input)
    model = small_source.lower("fp16", "lstm", wide=[convolution.output[0]])
    types = types_of(model)
    for node in model.graph.node:
        if branch_of(node.name) != "head" and node.op_type not in SHAPES:
            assert is_wide(types, node) == (node.name in (convolution.name, taker.name)), node.name
    constants = constants_of(model)
    assert constants[convolution.input[1]].dtype == np.float32
    tensors = tensors_of(small_source.spec, 8)
    assert error_of(logits_of(model, tensors, "fp16"), logits_of(small_source.forms["lstm"], tensors)) <= 5e-3


@pytest.mark.parametrize("form", FORMS)
def test_wide_gates_keep_that_lstm_in_fp32_in_either_form(small_source: Source, form: str) -> None:
    model = small_source.lower("fp16", form, wide=["rnn/lstm_1/gates"])
    types = types_of(model)
    if form == "lstm":
        assert is_wide(types, node_of(model, "rnn/lstm_1/hidden"))
        assert not is_wide(types, node_of(model, "rnn/lstm_2/hidden"))
    else:
        steps = [name for name in types if name.startswith("rnn/lstm_1/step_") and name.endswith(("/gates", "/raw"))]
        assert len(steps) == 2 * small_source.spec.timesteps - 1  # the first step's gates are its input
        assert {types[name] for name in steps if "step_00" not in name} == {FLOAT}
        assert types["rnn/lstm_2/step_05/gates"] == FLOAT16
        assert constants_of(model)["rnn/lstm_1/R:fp16"].dtype == np.float16
    tensors = tensors_of(small_source.spec, 8)
    assert error_of(logits_of(model, tensors, "fp16"), logits_of(small_source.forms[form], tensors)) <= 5e-3


def test_an_overflow_is_seen_kept_in_fp32_and_would_have_been_wrong_without() -> None:
    """A convolution's weights scaled up, the next one's down by as much: the same model, but for what is between."""
    keras.utils.set_random_seed(0)
    spec = SMALL.replace(branches="cnn")
    model = build_model(spec)
    randomize(model)
    factor = np.float32(4e5)
    first, second = (model.get_layer("cnn").get_layer(name) for name in ("conv_1", "conv_2"))
    first.set_weights([values * factor for values in first.get_weights()])
    second.set_weights([second.get_weights()[0] / factor, second.get_weights()[1]])
    source = measured(model, spec)
    found = ActivationPeaks.of(
        [{name: item.peak for name, item in source.statistics.items()}], too_large_weights(source.forms["lstm"])
    )
    between = {name for name, item in source.statistics.items() if item.peak > FP16_MAX}
    assert found.wide == between
    assert len(between) == 3  # the convolution, its activation, its pool
    assert all(name.startswith("cnn/conv_1") for name in between)
    assert "beyond FP16's 65,504, so these layers stay in FP32" in found.warnings[0]

    tensors = tensors_of(spec, 4)
    expected = logits_of(source.forms["lstm"], tensors)
    kept = source.lower("fp16", "lstm", wide=found.wide)
    for name in between:
        assert types_of(kept)[name] == FLOAT
    assert error_of(logits_of(kept, tensors, "fp16"), expected) <= 5e-3
    # onnx's own evaluator computes FP16 in NumPy's, operator by operator, as ONNX Runtime does not
    assert error_of(strict(kept, tensors), expected) <= 5e-3
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert not np.isfinite(strict(source.lower("fp16", "lstm"), tensors)).all()


def strict(model: onnx.ModelProto, tensors: dict[str, Any]) -> Any:
    return ReferenceEvaluator(model).run(["logits"], tensors)[0]


def test_a_recurrent_weight_beyond_fp16_keeps_its_products_in_fp32_in_either_form() -> None:
    keras.utils.set_random_seed(0)
    model = build_model(SMALL_RNN)
    lstm = model.get_layer("rnn").get_layer("lstm_2")
    kernel, recurrent, bias = lstm.get_weights()
    recurrent[3, 5] = 1e5
    lstm.set_weights([kernel, recurrent, bias])
    source = measured(model, SMALL_RNN)
    assert too_large_weights(source.forms["unrolled"]) == {"rnn/lstm_2/recurrent": 1e5}
    wide = ActivationPeaks.of([], too_large_weights(source.forms["unrolled"])).wide
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's of an overflow in a cast
        models = {form: source.lower("fp16", form, wide=wide) for form in FORMS}
    for form, found in models.items():
        assert all(np.isfinite(values).all() for values in constants_of(found).values())
        tensors = tensors_of(SMALL_RNN, 8)
        assert error_of(logits_of(found, tensors, "fp16"), logits_of(source.forms[form], tensors)) <= 5e-3
    unrolled = constants_of(models["unrolled"])
    assert unrolled["rnn/lstm_2/R"].dtype == np.float32
    assert unrolled["rnn/lstm_1/R:fp16"].dtype == np.float16
    assert "rnn/lstm_2/R:fp16" not in unrolled


def test_a_weight_that_fp16_holds_is_not_too_large(small_source: Source) -> None:
    assert too_large_weights(small_source.forms["unrolled"]) == {}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [*SOURCES, "reduced_source"])
def test_both_inputs_of_every_product_come_through_int8(size: str, form: str, request: pytest.FixtureRequest) -> None:
    source: Source = request.getfixturevalue(size)
    model = source.lower("int8-tensorrt", form)
    makers, constants, types = makers_of(model), constants_of(model), types_of(model)
    products = [node for node in model.graph.node if node.op_type in WEIGHT_AXIS]
    assert len(products) == sum(len(nodes) for nodes in quantizable(source.forms[form]).values())
    for node in products:
        activation, weight = (makers[name] for name in node.input[:2])
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        quantize = makers[activation.input[0]]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input[1:]) == list(activation.input[1:])
        assert constants[activation.input[1]].shape == ()
        integers, scales, zeros = (constants[name] for name in weight.input)
        steps = branch_of(node.name) == "rnn"  # (1, I, O), the rank of the (T, N, I) that they multiply
        axis = WEIGHT_AXIS[node.op_type] + steps
        assert integers.ndim == (3 if steps else constants_of(source.forms[form])[node.input[1].split(":")[0]].ndim)
        assert (integers.dtype, zeros.dtype) == (np.int8, np.int8)
        assert onnx.helper.get_node_attr_value(weight, "axis") == axis
        assert scales.shape == (integers.shape[axis],)
        assert not zeros.any()
        assert constants[activation.input[2]] == 0
        assert constants[activation.input[2]].dtype == np.int8
        assert {types[name] for name in (*node.input, *node.output)} == {FLOAT16}
        assert {types[activation.input[1]], types[weight.input[1]]} == {FLOAT16}
    assert (model.opset_import[0].version, model.ir_version) == (19, 9)
    assert all(item.domain == "" for item in model.opset_import)


@pytest.mark.parametrize("form", FORMS)
def test_a_quantized_weight_is_stored_as_integers_once_and_in_no_other_way(source: Source, form: str) -> None:
    original = constants_of(source.forms[form])
    weights = {node.input[1] for nodes in quantizable(source.forms[form]).values() for node in nodes}
    constants = constants_of(source.lower("int8-tensorrt", form))
    matrices = [values for values in constants.values() if values.dtype == np.int8 and values.ndim > 1]
    assert len(matrices) == len(weights)
    assert sum(values.size for values in matrices) == sum(original[name].size for name in weights)
    for name in weights:
        assert not constants.keys() & {name, f"{name}:fp16"}
        assert all(
            values.nbytes <= original[name].size for key, values in constants.items() if key.startswith(f"{name}:")
        )
    # INT8 never reaches into an LSTM
    assert f"rnn/lstm_1/R:fp16{'' if form == 'lstm' else '/integers'}" in constants


def test_a_weight_that_a_wide_and_a_narrow_layer_share_is_dequantized_in_the_type_of_each() -> None:
    """tf2onnx gives equal constants once."""
    writer = GraphWriter("shared")
    writer.input("image", (2, 4, 4))
    kernel = writer.constant("cnn/kernel", np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1) / 3)
    first = writer.node("Conv", ["image", kernel], "cnn/first")
    writer.node("GlobalAveragePool", [writer.node("Conv", [first, kernel], "cnn/second")], "logits")
    writer.output("logits", (2, 1, 1))
    set_versions(writer.model, 17, 8)
    ranges = dict.fromkeys(("image", "cnn/first"), Range(-1, 1))
    layers = ["cnn/first", "cnn/second"]
    model = GpuGraph(writer.model, wide=["cnn/second"], ranges=ranges, quantized=layers).write()
    types = types_of(model)
    assert [is_wide(types, node_of(model, name)) for name in layers] == [False, True]
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_initial_states_of_the_graphs_own_change_no_bit_of_an_lstms_output(small_source: Source, variant: str) -> None:
    model = small_source.lower(variant, "lstm")
    left_away = onnx.ModelProto.FromString(serialize(model))
    for node in left_away.graph.node:
        if node.op_type == "LSTM":
            del node.input[4:]
    for count in (1, 5):
        tensors = tensors_of(small_source.spec, count)
        np.testing.assert_array_equal(logits_of(model, tensors, variant), logits_of(left_away, tensors, variant))


@pytest.mark.parametrize("form", FORMS)
def test_int8_is_near_fp32(source: Source, form: str) -> None:
    tensors = tensors_of(source.spec, 8)
    expected = logits_of(source.forms[form], tensors)
    found = logits_of(source.lower("int8-tensorrt", form), tensors, "int8-tensorrt")
    assert 1e-3 < error_of(found, expected) <= 0.1


def test_one_branch_alone_may_be_quantized(small_source: Source) -> None:
    tensors = tensors_of(small_source.spec, 8)
    expected = logits_of(small_source.forms["unrolled"], tensors)
    layers = quantizable(small_source.forms["unrolled"])
    for branch in ("cnn", "rnn"):
        wider = [layer for layer in layers if branch_of(layer) != branch]
        model = small_source.lower("int8-tensorrt", "unrolled", wider)
        makers = makers_of(model)
        quantized = {
            branch_of(node.name)
            for node in model.graph.node
            if node.op_type in WEIGHT_AXIS and makers[node.input[0]].op_type == "DequantizeLinear"
        }
        assert quantized == {branch}
        assert error_of(logits_of(model, tensors, "int8-tensorrt"), expected) <= 0.1


def test_without_half_everything_that_is_not_int8_stays_in_fp32(small_source: Source) -> None:
    model = small_source.lower("int8-tensorrt", "unrolled", half=False)
    assert FLOAT16 not in types_of(model).values()
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    nothing = GpuGraph(small_source.forms["unrolled"], half=False).write()
    tensors = tensors_of(small_source.spec, 3)
    np.testing.assert_array_equal(logits_of(nothing, tensors), logits_of(small_source.forms["unrolled"], tensors))


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_that_is_wide_and_quantized_has_its_scales_in_fp32(small_source: Source, form: str) -> None:
    convolution = next(node for node in small_source.forms[form].graph.node if node.op_type == "Conv")
    model = small_source.lower("int8-tensorrt", form, wide=[convolution.output[0]])
    makers, types = makers_of(model), types_of(model)
    node = node_of(model, convolution.name)
    assert {types[makers[name].input[1]] for name in node.input[:2]} == {FLOAT}
    assert is_wide(types, node)
    tensors = tensors_of(small_source.spec, 8)
    expected = logits_of(small_source.forms[form], tensors)
    assert error_of(logits_of(model, tensors, "int8-tensorrt"), expected) <= 0.1


@pytest.mark.parametrize(("variant", "size"), [(v, s) for v in VARIANTS[1:3] for s in SOURCES] + ON_CPU)
@pytest.mark.parametrize("form", FORMS)
def test_no_two_nodes_and_no_two_tensors_share_a_name(
    size: str, form: str, variant: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(size).lower(variant, form)
    names = [node.name for node in model.graph.node]
    tensors = [name for node in model.graph.node for name in node.output if name]
    assert len(set(names)) == len(names)
    assert len(set(tensors)) == len(tensors)
    assert not constants_of(model).keys() & set(tensors)


def test_the_bias_of_a_quantized_convolution_makes_up_for_its_rounded_weights(small_source: Source) -> None:
    nodes = [node for node in small_source.forms["unrolled"].graph.node if node.op_type == "Conv"]
    name, (weight, bias) = nodes[1].name, nodes[1].input[1:]
    means = {name: np.linspace(0, 1, 32)}
    plain, corrected = (small_source.lower("int8-tensorrt", "unrolled", means=item, half=False) for item in ({}, means))
    kernel = constants_of(small_source.forms["unrolled"])[weight]
    expected = bias_correction(kernel, quantize_weight(kernel, 0), means[name])
    found, before = (constants_of(model)[node_of(model, name).input[2]] for model in (corrected, plain))
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(found - before, expected, atol=1e-6)
    others = [node_of(corrected, node.name).input[2] for node in (nodes[0], nodes[2])]
    assert others == [node.input[2] for node in (nodes[0], nodes[2])]
    assert bias in constants_of(plain)


def test_the_weights_that_steps_share_are_rounded_once(small_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size each rounding takes most of a second, and there are 44 of them."""
    rounded: list[tuple[int, ...]] = []

    def counted(weight: Any, *arguments: Any, **options: Any) -> Any:
        rounded.append(weight.shape)
        return quantize_weight(weight, *arguments, **options)

    monkeypatch.setattr(gpu_graph, "quantize_weight", counted)
    monkeypatch.setattr(int8_weights, "quantize_weight", counted)
    small_source.lower("int8-tensorrt", "unrolled")
    assert len(rounded) == 3 + 1 + 2 * 2  # convolutions, the dense layer, and both weights of each LSTM


def test_the_largest_over_all_sets_of_images_counts_and_the_head_does_not() -> None:
    found = ActivationPeaks.of([{"cnn/a": 3.0, "rnn/lstm_1/gates": 7.0}, {"cnn/a": 5.0, "logits": 1e6, "image": 1.0}])
    assert found.largest == {"cnn/a": 5.0, "rnn/lstm_1/gates": 7.0}
    assert (found.wide, found.warnings) == (frozenset(), ())


BEYOND = "beyond FP16's 65,504, so these layers stay in FP32: "
NEAR = {"cnn/a": FP16_WARNING, "cnn/b": FP16_WARNING + 1, "cnn/c": FP16_MAX}
MANY = {f"cnn/{number}": 1e5 + number for number in range(8)}
RECURRENT = "rnn/lstm_1/recurrent"


@pytest.mark.parametrize(
    ("peaks", "weights", "wide", "warning"),
    [
        ({"cnn/a": FP16_MAX + 1, "cnn/b": 4.0}, {}, ["cnn/a"], rf"{BEYOND}cnn/a \(65,505\)"),
        ({"cnn/a": 1e30, "cnn/b": 4.0}, {}, ["cnn/a"], rf"{BEYOND}cnn/a \([\d,]+\)"),
        ({"cnn/a": math.inf, "cnn/b": 4.0}, {}, ["cnn/a"], rf"{BEYOND}cnn/a \(inf\)"),
        (NEAR, {}, [], r"activations above 16,000 .*: cnn/c \(65,504\), cnn/b \(16,001\);.*"),
        ({RECURRENT: 35_491.0, "cnn/a": 2.0}, {RECURRENT: 1e5}, [RECURRENT], rf"{BEYOND}{RECURRENT} \(100,000\)"),
        (MANY, {}, list(MANY), BEYOND + "".join(rf"cnn/{n} \(100,00{n}\), " for n in (7, 6, 5, 4, 3)) + "and 3 more"),
    ],
    ids=[
        "just beyond",
        "far beyond",
        "infinite",
        "near is only warned of",
        "a weight, with its own size",
        "the largest",
    ],
)
def test_what_fp16_cannot_hold_stays_in_fp32_and_is_named_with_its_size(
    peaks: dict[str, float], weights: dict[str, float], wide: list[str], warning: str
) -> None:
    found = ActivationPeaks.of([peaks], weights)
    assert found.wide == set(wide)
    (line,) = found.warnings
    assert re.fullmatch(warning, line), line
