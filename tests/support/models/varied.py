"""Bundles with the labels of ``make_bundle``'s, and weights, speed or behaviour of their own."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from support.models import bundles
from support.models.bundles import make_bundle, make_graph, make_weights

SLOW_WIDTH = 8192  # hidden values: some ten times the small bundles' time
MIDDLE = 0.1  # below which a golden example has at least one value, in [-1, 1], and no white frame has any


def other_bundle(folder: Path, seed: int = 8) -> Path:
    """A bundle of other weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "make_weights", lambda spec: make_weights(spec, seed))
        return make_bundle(folder)


def slow_bundle(folder: Path) -> Path:
    """A bundle that takes far longer for a frame."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "HIDDEN", SLOW_WIDTH)
        return make_bundle(folder)


def failing_bundle(folder: Path) -> Path:
    """A bundle that passes its golden examples, and gives NaN for a frame that is bright everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "make_graph", lambda spec, weights: with_nan(make_graph(spec, weights)))
        return make_bundle(folder)


def with_nan(graph: bytes) -> bytes:
    """Add d / d - 1 to the logits, where d is how much of the image is darker than ``MIDDLE``: 0, or NaN."""
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        if node.output[0] == "logits":
            node.output[0] = "true_logits"
    constants = {"middle": np.float32(MIDDLE), "one": np.float32(1), "axis": np.array([1])}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(item), name) for name, item in constants.items())
    softmax = model.graph.node.pop()
    model.graph.node.extend(
        [
            helper.make_node("Sub", ["middle", "image"], ["darkness"]),
            helper.make_node("Relu", ["darkness"], ["dark"]),
            helper.make_node("ReduceMean", ["dark"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Div", ["mean", "mean"], ["one_or_nan"]),
            helper.make_node("Sub", ["one_or_nan", "one"], ["zero_or_nan"]),
            helper.make_node("Unsqueeze", ["zero_or_nan", "axis"], ["column"]),
            helper.make_node("Add", ["true_logits", "column"], ["logits"]),
            softmax,
        ]
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
