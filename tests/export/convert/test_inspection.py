"""What a graph is declared to be and refused for, and how one is described."""

from collections.abc import Callable

import onnx
import pytest
from support.models.lowered import VARIANTS, Source

from hybrid_edge.export.convert.inspection import (
    Declaration,
    check_graph,
    count_operators,
    count_steps,
    describe,
    operations,
)
from hybrid_edge.runtime.errors import ConversionError
from hybrid_edge.runtime.manifest import RecurrentForm

FORMS: tuple[RecurrentForm, ...] = ("lstm", "unrolled")


def declared(variant: str, form: RecurrentForm) -> Declaration:
    return Declaration(form, variant.startswith("int8"), "cpu" if variant == "int8-cpu" else "tensorrt")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", FORMS)
def test_each_variant_is_what_it_is_declared_to_be(variant: str, form: RecurrentForm, small_source: Source) -> None:
    check_graph(small_source.lower(variant, form), small_source.spec, declared(variant, form))


@pytest.mark.parametrize(
    ("form", "other", "message"),
    [
        ("lstm", "unrolled", "LSTM: expected 0, found 2; unrolled steps: expected 56, found 0"),
        ("unrolled", "lstm", "LSTM: expected 2, found 0; unrolled steps: expected 0, found 56"),
        ("unrolled", "none", "unrolled steps: expected 0, found 56"),
    ],
)
def test_another_form_of_the_recurrent_branch_is_refused(
    form: RecurrentForm, other: RecurrentForm, message: str, small_source: Source
) -> None:
    with pytest.raises(ConversionError, match=message):
        check_graph(small_source.forms[form], small_source.spec, Declaration(other))


@pytest.mark.parametrize(
    ("variant", "other", "message"),
    [
        ("fp16", "int8-tensorrt", r"expected \{'': 19\}, found \{'': 17\}; IR version: expected 9, found 8"),
        ("int8-tensorrt", "fp16", r"expected \{'': 17\}, found \{'': 19\}; IR version: expected 8, found 9"),
        ("int8-tensorrt", "int8-cpu", r"expected \{'': 17, 'com.microsoft': 1\}, found \{'': 19\}"),
        ("int8-cpu", "fp32", "foreign domains: com.microsoft.MatMulIntegerToFloat"),
        ("int8-cpu", "int8-tensorrt", "foreign domains: com.microsoft.MatMulIntegerToFloat"),
    ],
)
def test_another_precision_or_target_is_refused(variant: str, other: str, message: str, small_source: Source) -> None:
    with pytest.raises(ConversionError, match=message):
        check_graph(small_source.lower(variant, "unrolled"), small_source.spec, declared(other, "unrolled"))


def remove_step(model: onnx.ModelProto) -> None:
    model.graph.node.remove(next(node for node in model.graph.node if node.name == "rnn/lstm_2/step_05/hidden"))


def add_loop(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], ["looped"], body=onnx.GraphProto(name="body")))


def add_loop_inside(model: onnx.ModelProto) -> None:
    loop = onnx.helper.make_node("Loop", ["", ""], ["looped"], body=onnx.GraphProto(name="body"))
    inner = onnx.helper.make_graph([loop], "inner", [], [])
    model.graph.node.append(onnx.helper.make_node("If", [""], ["chosen"], then_branch=inner, else_branch=inner))


def add_scan(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Scan", [""], ["scanned"], body=onnx.GraphProto(name="body")))


def mix_types(model: onnx.ModelProto) -> None:
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "rnn/lstm_1/b:fp16")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias).astype("float32"), bias.name))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_step, "unrolled steps: expected 56, found 55"),
        (add_loop, r"Loop: expected 0, found 1 \(tf2onnx writes one for a layer with a fixed batch or a hard_sigmoid"),
        (add_loop_inside, r"Loop: expected 0, found 2 .*; If: expected 0, found 1 \(a layer behaves otherwise"),
        (add_scan, r"Scan: expected 0, found 1 \(a recurrent layer was not written by hybrid-edge\)"),
        (mix_types, "onnx's checker refused the graph"),
    ],
)
def test_a_lowered_graph_with_something_else_in_it_is_refused_with_the_cause(
    damage: Callable[[onnx.ModelProto], None], message: str, small_source: Source
) -> None:
    model = small_source.lower("fp16", "unrolled")
    damage(model)
    with pytest.raises(ConversionError, match=message):
        check_graph(model, small_source.spec, Declaration("unrolled"))


def leave_states_away(model: onnx.ModelProto) -> None:
    del next(node for node in model.graph.node if node.op_type == "LSTM").input[4:]


def start_in_fp32(model: onnx.ModelProto) -> None:
    """What TensorRT's parser up to 10.6 makes of an LSTM without states."""
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "rnn/lstm_1/zero:fp16")
    zero.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(zero).astype("float32"), zero.name))


@pytest.mark.parametrize("variant", ["fp16", "int8-tensorrt"])
@pytest.mark.parametrize(
    ("damage", "found"),
    [(leave_states_away, "initial_h none, initial_c none"), (start_in_fp32, "initial_h FLOAT, initial_c FLOAT")],
)
def test_an_lstm_whose_states_are_not_of_its_weights_type_is_refused(
    damage: Callable[[onnx.ModelProto], None], found: str, variant: str, small_source: Source
) -> None:
    model = small_source.lower(variant, "lstm")
    damage(model)
    message = (
        f"rnn/lstm_1/hidden: expected inputs of one type, found X FLOAT16, W FLOAT16, R FLOAT16, B FLOAT16, {found}"
    )
    with pytest.raises(ConversionError, match=message):
        check_graph(model, small_source.spec, declared(variant, "lstm"))


def test_an_lstm_that_stays_in_fp32_has_its_states_in_fp32(small_source: Source) -> None:
    model = small_source.lower("fp16", "lstm", wide=["rnn/lstm_1/gates"])
    check_graph(model, small_source.spec, declared("fp16", "lstm"))
    assert "rnn/lstm_1/initial:fp32" not in {node.name for node in model.graph.node}  # made so, and not cast


def test_operators_and_steps_are_counted(small_source: Source) -> None:
    unrolled = small_source.lower("int8-tensorrt", "unrolled")
    assert count_steps(unrolled) == 56
    counts = count_operators(unrolled)
    assert list(counts) == sorted(counts)
    assert (counts["Conv"], counts["MatMul"], counts["Gemm"], counts.get("LSTM", 0)) == (3, 57, 2, 0)


# two LSTMs of 28 steps and a projection: 2 products of the input, 2 * 27 of the state, 1 of the projection
LSTM = "recurrent form: 2 LSTM, 0 Loop, 0 unrolled steps"
UNROLLED = "recurrent form: 0 LSTM, 0 Loop, 56 unrolled steps"


@pytest.mark.parametrize(
    ("variant", "form", "cnn", "recurrent"),
    [
        ("fp32", LSTM, "FP32", "1/1 matrix products FP32, 2/2 LSTM FP32"),
        ("fp16", UNROLLED, "FP16", "57/57 matrix products FP16"),
        ("int8-tensorrt", LSTM, "INT8", "1/1 matrix products FP16, 2/2 LSTM FP16"),
        ("int8-tensorrt", UNROLLED, "INT8", "56/57 matrix products INT8, 1/57 matrix products FP16"),
        ("int8-cpu", LSTM, "INT8", "1/1 matrix products FP32, 2/2 LSTM FP32"),
        ("int8-cpu", UNROLLED, "INT8", "56/57 matrix products INT8, 1/57 matrix products FP32"),
    ],
)
def test_it_says_in_which_precision_each_branch_runs(
    variant: str, form: str, cnn: str, recurrent: str, small_source: Source
) -> None:
    assert describe(small_source.lower(variant, "lstm" if form == LSTM else "unrolled")) == (
        f"CNN: 3/3 convolutions {cnn}, 1/1 matrix products {cnn}",
        f"recurrent branch: {recurrent}",
        form,
    )


def test_a_branch_that_is_not_there_is_not_described(small_source: Source) -> None:
    for form in ("lstm", "unrolled"):
        model = small_source.lower("int8-tensorrt", form)
        for prefix, left in (("cnn/", "recurrent branch"), ("rnn/", "CNN")):
            part = type(model)()
            part.CopyFrom(model)
            del part.graph.node[:]
            part.graph.node.extend(node for node in model.graph.node if not node.name.startswith(prefix))
            assert describe(part)[0].startswith(left)
            assert len(describe(part)) == (2 if prefix == "cnn/" else 1)


def test_an_operation_with_integers_on_one_side_alone_is_not_int8(small_source: Source) -> None:
    model = small_source.lower("int8-tensorrt", "unrolled")
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    assert operations(model)[convolution.name] == "INT8"
    model.graph.initializer.add(name="weight", data_type=onnx.TensorProto.FLOAT16)
    convolution.input[1] = "weight"
    assert operations(model)[convolution.name] == "FP16"
