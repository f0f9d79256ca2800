from __future__ import annotations

import pytest
from hybrid_edge.runtime.bench.stages import branch_of, branch_shares
from support.models.bundles import SPEC

CNN = SPEC.replace(branches="cnn")
RNN = SPEC.replace(branches="rnn")


@pytest.mark.parametrize(
    ("node", "branch"),
    [
        # as ONNX Runtime 1.31 names them for the digits and the full-size bundle
        ("cnn/conv_1_1/BiasAdd", "cnn"),
        ("fused cnn/dense_1/MatMul/MatMulAddFusion", "cnn"),
        ("image_q", "cnn"),
        ("ReorderOutput_token_8", "cnn"),
        ("ReorderInput", "cnn"),
        ("Transpose_token_277", "cnn"),
        ("rnn/lstm_1/step_07/hidden", "recurrent"),
        ("sequence_q", "recurrent"),
        ("product", "head"),
        ("logits", "head"),
        ("probabilities", "head"),
        # as TensorRT names what it fuses
        ("{ForeignNode[rnn/time_major...rnn/lstm_2/output]}", "recurrent"),
        ("cnn/block1_conv1/Conv2D + PWN(PWN(cnn/block1_act/Sigmoid), cnn/mul)", "cnn"),
        ("__myl_ReshTran_myl0_3", "head"),
        # and what it says of the kernels that it compiles itself
        (
            "__myl_FcSigMul_myl3_7 [ONNX Layer: rnn/lstm_1/step_07/gates] [ONNX Layer: rnn/lstm_1/step_07/hidden]",
            "recurrent",
        ),
        ("__myl_CastConv_myl0_1 [ONNX Layer: image_q] [ONNX Layer: image_dq]", "cnn"),
        ("__myl_FcMul_myl3_9 [ONNX Layer: product] [ONNX Layer: logits]", "head"),
        (
            "__myl_FcFcMul_myl3_8 [ONNX Layer: cnn/dense/MatMul] [ONNX Layer: rnn/fc/MatMul] [ONNX Layer: rnn/fc/Add]",
            "recurrent",
        ),
        ("images_of_cnn", "head"),
    ],
)
def test_a_node_belongs_to_the_branch_that_its_name_says(node: str, branch: str) -> None:
    assert branch_of(node, SPEC) == branch


def test_a_change_of_layout_in_a_model_without_convolutions_is_the_recurrent_branchs() -> None:
    assert branch_of("Transpose_token_3", RNN) == "recurrent"


def test_shares_add_up_to_one_and_name_the_branches_that_there_are() -> None:
    nodes = {"cnn/a": 2.0, "cnn/b": 1.0, "rnn/c": 4.0, "logits": 1.0}
    assert branch_shares(nodes, SPEC) == {"cnn": 3 / 8, "recurrent": 4 / 8, "head": 1 / 8}
    assert branch_shares({"cnn/a": 3.0, "logits": 1.0}, CNN) == {"cnn": 0.75, "head": 0.25}


def test_an_engine_that_is_one_node_has_no_shares() -> None:
    """Its time can't be told apart; a small node of both branches is given to one of them."""
    whole = {"{ForeignNode[cnn/conv_1/Conv2D...rnn/lstm_1/output]}": 9.0, "logits": 1.0}
    assert branch_shares(whole, SPEC) == {}
    fused = {"cnn/a": 4.0, "rnn/b": 5.0, "cnn/dense/MatMul + rnn/fc/MatMul": 1.0}
    assert branch_shares(fused, SPEC) == {"cnn": 0.5, "recurrent": 0.5, "head": 0.0}


def test_without_times_there_are_no_shares() -> None:
    assert branch_shares({}, SPEC) == {}
    assert branch_shares({"cnn/a": 0.0}, SPEC) == {}
