from pathlib import Path

import numpy as np
import onnx
import pytest
from support.models.lowered import SmallCnn, Source, constants_of, error_of, logits_of, tensors_of

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.graph_reading import branch_of, quantizable
from hybrid_edge.export.quantize.channel_groups import groups_of
from hybrid_edge.export.quantize.cpu_graph import CpuGraph
from hybrid_edge.export.quantize.cpu_speed import SCAN_NAME, VECTOR_CHANNELS, fill_channels, one_image_at_a_time
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu

RNG = np.random.default_rng(0)


def small(channels: int, *, leaves: bool = False) -> onnx.ModelProto:
    """A convolution -> a depthwise one -> a ReLU -> a pointwise one to 5 logits; its middle may leave the CNN too."""
    cnn = SmallCnn((3, 8, 8))

    def convolve(value: str, name: str, shape: tuple[int, ...], group: int = 1) -> str:
        return cnn.convolve(value, name, RNG.normal(0, 0.3, shape), RNG.normal(size=shape[0]), group=group)

    value = convolve("image", "cnn/a", (channels, 3, 3, 3))
    value = cnn.writer.node("Relu", [convolve(value, "cnn/b", (channels, 1, 3, 3), channels)], "cnn/relu")
    model = cnn.finish(convolve(value, "cnn/c", (5, channels, 1, 1)), 5)
    if leaves:
        cnn.writer.node("Sigmoid", ["cnn/relu"], "cnn/seen")
        cnn.writer.output("cnn/seen", (channels, 4, 4))
    return model


@pytest.mark.parametrize(("channels", "filled"), [(12, 16), (16, 16), (17, 32), (1, 1)])
def test_depthwise_convolutions_get_multiples_of_16_channels_and_compute_the_same(channels: int, filled: int) -> None:
    source = small(channels)
    before = source.SerializeToString()
    means = {"cnn/b": np.ones(channels), "cnn/c": np.ones(channels), "cnn/a": np.ones(3)}
    model, wide = fill_channels(source, means)
    assert source.SerializeToString() == before
    first, depthwise, last = (node for node in model.graph.node if node.op_type == "Conv")
    constants = constants_of(model)
    assert groups_of(depthwise) == filled
    assert constants[first.input[1]].shape == (filled, 3, 3, 3)
    assert constants[depthwise.input[1]].shape == (filled, 1, 3, 3)
    assert constants[last.input[1]].shape == (5, filled, 1, 1)
    assert {name: len(value) for name, value in wide.items()} == {"cnn/a": 3, "cnn/b": filled, "cnn/c": filled}
    assert all(wide[name][channels:].sum() == 0 for name in ("cnn/b", "cnn/c"))
    assert set(constants) == {
        name for node in model.graph.node for name in node.input if "/" in name and name in constants
    }
    images = {"image": RNG.uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)}
    assert error_of(logits_of(model, images), logits_of(source, images)) <= 1e-6


def test_channels_that_leave_the_cnn_stay_as_they_are() -> None:
    source = small(12, leaves=True)
    assert fill_channels(source, {}) == (source, {})


def test_xceptions_middle_flow_is_filled_and_int8_gives_the_same(reduced_source: Source) -> None:
    """728 channels become 736; zeros are exact in INT8, so that not a bit of the result changes."""
    source = reduced_source.forms["lstm"]
    model, _ = fill_channels(source, {})
    groups = [groups_of(node) for node in model.graph.node if node.op_type == "Conv"]
    assert 736 in groups
    assert all(group % VECTOR_CHANNELS == 0 for group in groups if group > 1)
    tensors = tensors_of(reduced_source.spec, 2)
    assert error_of(logits_of(model, tensors), logits_of(source, tensors)) <= 1e-5
    quantized = [CpuGraph(graph, reduced_source.unsigned, quantizable(source)).write() for graph in (source, model)]
    plain, filled = (logits_of(graph, tensors, "int8-cpu") for graph in quantized)
    np.testing.assert_array_equal(filled, plain)


@pytest.mark.parametrize(
    ("size", "form"), [("small_source", "unrolled"), ("small_source", "lstm"), ("reduced_source", "lstm")]
)
def test_image_after_image_gives_the_same_to_the_bit(size: str, form: str, request: pytest.FixtureRequest) -> None:
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


def test_small_images_go_through_together(small_source: Source, reduced_source: Source) -> None:
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
