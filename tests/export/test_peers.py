"""``make bench`` on a small model: real engines in real processes, from the command to the page."""

import json
import subprocess
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

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from peers.plain import MOVES, fingerprint, plain_graph


def test_a_small_model_is_measured_on_each_engine(exported_digits: Any, photos: Path, tmp_path: Path) -> None:
    places = {"model": exported_digits.file, "bundle": exported_digits.bundle, "images": photos}
    places |= {"work": tmp_path / "work", "out": tmp_path / "results", "docs": tmp_path / "docs"}
    options = {**places, "batch": "1,3", "rounds": 2, "threads": 1, "python": "openvino=/nonexistent/python"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    words += ["--only", "plain graph", "--only", "hybrid-edge", "--only", "OpenVINO FP32"]
    command = [sys.executable, str(BENCHMARKS / "cpu_peers.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "results" / "peers.json").read_text()
    assert str(tmp_path) not in text
    assert "/nonexistent" not in text
    content = json.loads(text)
    rows = {row["name"]: row for row in content["peers"]}
    assert set(rows) == {"Keras tf.function", "ONNX Runtime, plain graph", "hybrid-edge FP32"}
    assert [row["agreement"] for row in rows.values()] == [1, 1, 1]
    assert all(len(row["rounds"][batch]) == 2 for row in rows.values() for batch in ("1", "3"))
    assert all(time > 0 for row in rows.values() for batch in ("1", "3") for time in row["rounds"][batch])
    assert content["skipped"]["OpenVINO FP32"].startswith("python can't be started")
    assert content["skipped"]["LiteRT FP32"] == content["skipped"]["Keras predict"] == "left out by --only"
    assert {(row["batch"], row["question"]) for row in content["comparisons"]} == {
        (batch, question)
        for batch in (1, 3)
        for question in ("Keras tf.function", "the fastest peer", "the fastest peer in FP32")
    }
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    named = f"MODEL=digits.keras BUNDLE=bundle IMAGES={photos.name} CALIBRATION={photos.name}"
    only = "--only 'plain graph' --only hybrid-edge --only 'OpenVINO FP32'"
    assert f'make bench {named} BENCH="--batch 1,3 --rounds 2 --threads 1 {only}"\n' in page
    assert all(f"| {name} |" in page for name in ("Keras tf.function", "**hybrid-edge FP32**"))
    assert "OpenVINO FP32: " in page
    assert "- LiteRT INT8: left out by --only" in page
    assert str(tmp_path) not in page
    assert (tmp_path / "docs" / "pictures" / "peers.png").stat().st_size > 10_000


SHAPES = {*MOVES, "Shape", "Concat"}  # what a graph computes about its tensors' shapes


@pytest.fixture(scope="module")
def plain(exported_reduced: Any) -> onnx.ModelProto:
    return plain_graph(exported_reduced.model, exported_reduced.spec)


def test_the_plain_graph_has_the_same_operators_and_weights(exported_reduced: Any, plain: onnx.ModelProto) -> None:
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
