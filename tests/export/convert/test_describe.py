from __future__ import annotations

import onnx
import pytest
from support.models.lowered import Source

from hybrid_edge.export.convert.graph_reading import quantizable
from hybrid_edge.export.convert.inspection import describe, operations

# two LSTMs of 28 steps and a projection: 2 products of the input, 2 * 27 of the state, 1 of the projection
LSTM = "recurrent form: 2 LSTM, 0 Loop, 0 unrolled steps"
UNROLLED = "recurrent form: 0 LSTM, 0 Loop, 56 unrolled steps"


@pytest.mark.parametrize(
    ("variant", "form", "sentences"),
    [
        (
            "fp32",
            "lstm",
            (
                "CNN: 3/3 convolutions FP32, 1/1 matrix products FP32",
                "recurrent branch: 1/1 matrix products FP32, 2/2 LSTM FP32",
                LSTM,
            ),
        ),
        (
            "fp16",
            "unrolled",
            (
                "CNN: 3/3 convolutions FP16, 1/1 matrix products FP16",
                "recurrent branch: 57/57 matrix products FP16",
                UNROLLED,
            ),
        ),
        (
            "int8-tensorrt",
            "lstm",
            (
                "CNN: 3/3 convolutions INT8, 1/1 matrix products INT8",
                "recurrent branch: 1/1 matrix products FP16, 2/2 LSTM FP16",
                LSTM,
            ),
        ),
        (
            "int8-tensorrt",
            "unrolled",
            (
                "CNN: 3/3 convolutions INT8, 1/1 matrix products INT8",
                "recurrent branch: 56/57 matrix products INT8, 1/57 matrix products FP16",
                UNROLLED,
            ),
        ),
        (
            "int8-cpu",
            "lstm",
            (
                "CNN: 3/3 convolutions INT8, 1/1 matrix products INT8",
                "recurrent branch: 1/1 matrix products FP32, 2/2 LSTM FP32",
                LSTM,
            ),
        ),
        (
            "int8-cpu",
            "unrolled",
            (
                "CNN: 3/3 convolutions INT8, 1/1 matrix products INT8",
                "recurrent branch: 56/57 matrix products INT8, 1/57 matrix products FP32",
                UNROLLED,
            ),
        ),
    ],
)
def test_it_says_in_which_precision_each_branch_runs(
    variant: str, form: str, sentences: tuple[str, ...], small_source: Source
) -> None:
    assert describe(small_source.lower(variant, form)) == sentences


@pytest.mark.parametrize(("variant", "wider"), [("int8-tensorrt", "FP16"), ("int8-cpu", "FP32")])
def test_layers_that_were_given_back_are_counted(variant: str, wider: str, small_source: Source) -> None:
    convolution, *_, last = quantizable(small_source.forms["unrolled"])
    assert last == "rnn/lstm_2"
    assert describe(small_source.lower(variant, "unrolled", [convolution, last])) == (
        f"CNN: 2/3 convolutions INT8, 1/3 convolutions {wider}, 1/1 matrix products INT8",
        f"recurrent branch: 28/57 matrix products INT8, 29/57 matrix products {wider}",
        UNROLLED,
    )


def test_a_layer_kept_in_fp32_for_its_range_is_counted(small_source: Source) -> None:
    model = small_source.lower("fp16", "lstm", wide=["rnn/lstm_2/gates"])
    assert describe(model)[1] == "recurrent branch: 1/1 matrix products FP16, 1/2 LSTM FP16, 1/2 LSTM FP32"


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
