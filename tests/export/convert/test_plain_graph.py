"""What the peers get as plain tf2onnx's graph is what plain tf2onnx writes, operator by operator, at a reduced size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from support.models.standin import crops

from hybrid_edge.runtime.preprocess import Preprocessor

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from peers.plain import MOVES, fingerprint, plain_graph

SHAPES = {*MOVES, "Shape", "Concat"}  # what a graph computes about its tensors' shapes


@pytest.fixture(scope="module")
def plain(exported_reduced: Any) -> onnx.ModelProto:
    return plain_graph(exported_reduced.model, exported_reduced.spec)


def test_the_plain_graph_has_the_same_operators_with_the_same_weights(
    exported_reduced: Any, plain: onnx.ModelProto
) -> None:
    ours, theirs = fingerprint(onnx.load(exported_reduced.graph)), fingerprint(plain)
    assert theirs.operators == ours.operators
    assert ours.operators["Conv"] == 74
    assert ours.operators["LSTM"] == 2
    assert ours.operators["Dense"] == 2
    assert theirs.root == ours.root
    # beyond these the plain graph has one operator: the mean of the channels, which ours gets as an input
    others = [node.op_type for node in plain.graph.node if node.op_type not in SHAPES]
    counted = {"MatMul", "Gemm", "Add"} | set(ours.operators)
    assert [kind for kind in others if kind not in counted] == []
    assert others.count("GlobalAveragePool") == ours.operators["GlobalAveragePool"] + 1


def test_both_graphs_give_the_same_probabilities(exported_reduced: Any, plain: onnx.ModelProto) -> None:
    tensors = Preprocessor(exported_reduced.spec)(crops(2, seed=5))
    ours = onnxruntime.InferenceSession(exported_reduced.graph).run(["probabilities"], tensors)[0]
    theirs = onnxruntime.InferenceSession(plain.SerializeToString()).run(None, {"image": tensors["image"]})[0]
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("operator", ["LSTM", "Conv"])
def test_one_changed_weight_is_seen(exported_reduced: Any, operator: str) -> None:
    model = onnx.load(exported_reduced.graph)
    before = fingerprint(model)
    node = next(item for item in model.graph.node if item.op_type == operator)
    weights = next(item for item in model.graph.initializer if item.name == node.input[1])
    values = numpy_helper.to_array(weights).copy()
    values.flat[0] += 1e-3
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    after = fingerprint(model)
    assert after.operators == before.operators
    assert after.root != before.root
