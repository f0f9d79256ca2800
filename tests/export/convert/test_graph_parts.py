"""A hybrid's graph taken apart: the parts one after the other give what the whole gives."""

import numpy as np
import onnx
import pytest
from support.models.lowered import Source, is_simulated, tensors_of

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.graph_parts import part_for, split_behind_image
from hybrid_edge.runtime.backends.onnxruntime import TensorSession

SIMULATED = ("fp32", "fp16", "int8-tensorrt")


@pytest.mark.parametrize("variant", SIMULATED)
@pytest.mark.parametrize("form", ["lstm", "unrolled"])
def test_both_parts_one_after_the_other_give_what_the_whole_gives(
    variant: str, form: str, small_source: Source
) -> None:
    model, simulated = small_source.lower(variant, form), is_simulated(variant)
    parts = split_behind_image(model)
    assert parts is not None
    tensors = tensors_of(small_source.spec, 3)
    with TensorSession(serialize(model), threads=1, simulated=simulated) as session:
        expected = session.run(tensors)
    first, second = (TensorSession(serialize(part), threads=1, simulated=simulated) for part in parts)
    assert first.inputs == ("image",)
    assert set(second.inputs) == {"sequence", *first.outputs}
    found = second.run({**tensors, **first.run({"image": tensors["image"]})})
    for name in ("logits", "probabilities"):
        assert np.array_equal(found[name], expected[name]), name


def test_what_follows_from_the_image_is_the_same_in_both_forms(small_source: Source) -> None:
    for variant in SIMULATED:
        parts = [split_behind_image(small_source.lower(variant, form)) for form in ("lstm", "unrolled")]
        one, other = (serialize(part[0]) for part in parts if part is not None)
        assert one == other, variant


def test_each_weight_is_in_the_part_that_takes_it(small_source: Source) -> None:
    model = small_source.forms["unrolled"]
    before = model.SerializeToString()
    parts = split_behind_image(model)
    assert parts is not None
    weights = [{tensor.name for tensor in part.graph.initializer} for part in parts]
    assert "rnn/lstm_1/R" in weights[1] - weights[0]
    assert set.union(*weights) == {tensor.name for tensor in model.graph.initializer}
    assert model.SerializeToString() == before


def test_a_graph_of_one_input_stays_whole(small_source: Source) -> None:
    first, _ = split_behind_image(small_source.forms["lstm"]) or (onnx.ModelProto(), None)
    assert first.graph.node
    assert split_behind_image(first) is None


def test_a_part_has_only_what_its_outputs_need(small_source: Source) -> None:
    part = part_for(small_source.forms["lstm"], ["rnn/time_major"])
    assert [node.op_type for node in part.graph.node] == ["Transpose"]
    assert [value.name for value in part.graph.input] == ["sequence"]
    assert not part.graph.initializer
