from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.models.lowered import Source, logits_of, tensors_of

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.graph_reading import branch_of
from hybrid_edge.export.quantize.cpu_speed import SCAN_NAME, one_image_at_a_time
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu


@pytest.mark.parametrize(
    ("size", "form"), [("small_source", "unrolled"), ("small_source", "lstm"), ("reduced_source", "lstm")]
)
def test_one_image_after_the_other_gives_the_same_to_the_bit(
    size: str, form: str, request: pytest.FixtureRequest
) -> None:
    source: Source = request.getfixturevalue(size)
    model = source.lower("int8-cpu", form)
    before = serialize(model)
    wrapped = one_image_at_a_time(model, large=1)
    assert serialize(model) == before
    onnx.checker.check_model(wrapped)
    (scan,) = (node for node in wrapped.graph.node if branch_of(node.name) == "cnn")
    assert (scan.op_type, scan.name) == ("Scan", SCAN_NAME)
    inside = {node.name for node in scan.attribute[0].g.node or scan.attribute[1].g.node}
    assert inside >= {node.name for node in model.graph.node if branch_of(node.name) == "cnn"}
    for count in (1, 3):
        tensors = tensors_of(source.spec, count)
        found, expected = (logits_of(graph, tensors, "int8-cpu") for graph in (wrapped, model))
        np.testing.assert_array_equal(found, expected)


def test_small_images_go_through_together_and_a_model_without_a_cnn_stays_as_it_is(
    small_source: Source, reduced_source: Source
) -> None:
    for source in (small_source, reduced_source):
        model = source.lower("int8-cpu", "unrolled")
        assert one_image_at_a_time(model) is model


def test_a_profile_counts_what_is_inside_once(small_source: Source, tmp_path: Path) -> None:
    """The Scan's own event lasts as long as all of those inside it."""
    model = small_source.lower("int8-cpu", "unrolled")
    names = {node.name for node in model.graph.node if branch_of(node.name) == "cnn"}
    taken = {}
    for name, graph in (("plain", model), ("wrapped", one_image_at_a_time(model, large=1))):
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(serialize(graph))
        with OnnxRuntimeCpu(file, small_source.spec, threads=1) as backend:
            taken[name] = backend.profile(tensors_of(small_source.spec, 2))
    assert SCAN_NAME not in taken["wrapped"]
    assert any(name.split("_token")[0] in names for name in taken["wrapped"] if name.startswith("cnn/"))
