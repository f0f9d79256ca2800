from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from support.models.lowered import Array, SmallCnn, Source, constants_of, error_of, logits_of, tensors_of

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.inspection import Declaration, check_graph
from hybrid_edge.export.quantize.calibration_graph import bounds, measured_graph
from hybrid_edge.export.quantize.equalize import (
    CLIPPED_MARGIN,
    MAX_WIDENING,
    PIXELS,
    PixelGrid,
    channel_tensors,
    even_channels,
)
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.preprocess import scaled_values
from hybrid_edge.runtime.spec import Channels, ModelSpec, Scaling

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same numbers for every test, whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


IMAGES = RNG.uniform(-1, 1, (64, 3, 8, 8)).astype(np.float32)
UNEVEN = np.array([1, 0.1, 0.03, 1, 0.3, 1, 0.05, 0.2])


def peaks_of(model: onnx.ModelProto, tensors: dict[str, Array]) -> dict[str, Array]:
    """The largest |value| of each channel of what the equalizer asks for."""
    with TensorSession(serialize(measured_graph(model))) as session:
        found = session.run(tensors)
    return {name: np.abs(found[name]).max(axis=(0, *range(2, found[name].ndim))) for name in channel_tensors(model)}


def evenness(peaks: npt.NDArray[np.float32]) -> float:
    """The narrowest channel's range over the widest's."""
    return float(peaks.min() / peaks.max())


class Small(SmallCnn):
    """(N, 3, 8, 8) -> a convolution of uneven channels -> whatever stands between -> a convolution -> logits."""

    def __init__(self) -> None:
        super().__init__((3, 8, 8))
        kernel = RNG.normal(0, 0.3, (8, 3, 3, 3)) * UNEVEN.reshape(-1, 1, 1, 1)
        self.convolve("image", "cnn/a", kernel, RNG.normal(0, 0.2, 8) * UNEVEN)


def relu(small: Small) -> str:
    return small.writer.node("Relu", ["cnn/a"], "cnn/between")


def clip(small: Small) -> str:
    """Some channels reach the limit, most stay far below it."""
    limits = [small.writer.constant(name, np.float32(value)) for name, value in (("cnn/low", 0), ("cnn/high", 1.5))]
    return small.writer.node("Clip", ["cnn/a", *limits], "cnn/between")


def leaky_and_pool(small: Small) -> str:
    small.writer.node("LeakyRelu", ["cnn/a"], "cnn/leaky", alpha=0.2)
    return small.writer.node("MaxPool", ["cnn/leaky"], "cnn/between", kernel_shape=[2, 2], strides=[2, 2])


def taken_by_another_too(small: Small) -> str:
    """A residual addition in between: only a Mul can divide what the convolution takes."""
    small.writer.node("Sigmoid", ["cnn/a"], "cnn/gate")
    return small.writer.node("Mul", ["cnn/a", "cnn/gate"], "cnn/between")


@pytest.mark.parametrize(
    ("between", "inserted"), [(relu, 1), (clip, 1), (leaky_and_pool, 1), (taken_by_another_too, 2)]
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_channels_come_near_each_other_and_the_function_stays(
    between: Callable[[Small], str], inserted: int, depthwise: bool
) -> None:
    small = Small()
    value = between(small)
    kernel = RNG.normal(0, 0.3, (8, 1 if depthwise else 8, 2, 2))
    source = small.finish(small.convolve(value, "cnn/b", kernel, RNG.normal(size=8), group=8 if depthwise else 1), 8)
    tensors = {"image": IMAGES}
    peaks = peaks_of(source, tensors)
    evened = even_channels(source, peaks).graph
    assert error_of(logits_of(evened, tensors), logits_of(source, tensors)) <= 1e-5
    multiplied = [node for node in evened.graph.node if node.name.endswith(("evened_0", "evened_1"))]
    assert len(multiplied) == inserted  # one of them behind the last convolution, before its pooling
    taken = next(node for node in evened.graph.node if node.name == "cnn/b").input[0]
    with TensorSession(serialize(measured_graph(evened))) as session:
        found = np.abs(session.run(tensors)[taken]).max(axis=(0, 2, 3))
    assert evenness(found) > 2 * evenness(peaks["cnn/between"])
    assert found.max() <= 1.001 * peaks["cnn/between"].max()
    if depthwise:
        before = peaks["cnn/between"]
        # every channel is as wide as the widest, but for those that would need more than MAX_WIDENING, and a margin
        apart = 1 - 1 / CLIPPED_MARGIN if between is clip else 0.0
        np.testing.assert_allclose(
            found, before / np.maximum(before / before.max(), 1 / MAX_WIDENING), rtol=apart + 1e-3
        )


def test_a_residual_stream_has_one_factor_for_each_channel_and_needs_no_other_node() -> None:
    small = Small()
    kernel = RNG.normal(0, 0.3, (8, 3, 3, 3)) * UNEVEN.reshape(-1, 1, 1, 1)
    small.convolve("image", "cnn/side", kernel, RNG.normal(0, 0.2, 8) * UNEVEN)
    small.writer.node("Add", [relu(small), "cnn/side"], "cnn/sum")
    small.convolve("cnn/sum", "cnn/depthwise", RNG.normal(0, 0.3, (8, 1, 2, 2)), RNG.normal(size=8), group=8)
    small.convolve("cnn/sum", "cnn/full", RNG.normal(0, 0.3, (8, 8, 2, 2)), RNG.normal(size=8))
    small.writer.node("Sigmoid", ["cnn/depthwise"], "cnn/ended")  # what is behind is left as it is
    source = small.finish(small.writer.node("Mul", ["cnn/ended", "cnn/full"], "cnn/product"), 8)
    tensors = {"image": IMAGES}
    peaks = peaks_of(source, tensors)
    evened = even_channels(source, peaks).graph
    assert error_of(logits_of(evened, tensors), logits_of(source, tensors)) <= 1e-5
    assert [node.op_type for node in evened.graph.node] == [node.op_type for node in source.graph.node]
    after = peaks_of(evened, tensors)
    for name in ("cnn/between", "cnn/side", "cnn/sum"):
        assert evenness(after[name]) > 2 * evenness(peaks[name])
    scaled = after["cnn/sum"] / peaks["cnn/sum"]
    np.testing.assert_allclose(after["cnn/side"] / peaks["cnn/side"], scaled, rtol=1e-4)


def test_convolutions_that_share_a_constant_are_scaled_each_by_themselves() -> None:
    """tf2onnx gives equal constants once: scaled in one place, the other users would compute something else."""
    small = Small()
    kernel = RNG.normal(0, 0.3, (8, 8, 2, 2)) * UNEVEN[::-1].reshape(-1, 1, 1, 1)
    small.convolve(relu(small), "cnn/b", kernel, RNG.normal(size=8))
    small.writer.node("Relu", ["cnn/b"], "cnn/relu")
    small.writer.node("Conv", ["cnn/relu", "cnn/b/w", "cnn/b/b"], "cnn/c")
    shape = small.writer.constant("cnn/shape", np.array([1, 8, 1, 1], np.int64))
    small.writer.node("Reshape", ["cnn/b/b", shape], "cnn/bias")
    source = small.finish(small.writer.node("Mul", ["cnn/c", "cnn/bias"], "cnn/d"), 8)
    tensors = {"image": IMAGES}
    evened = even_channels(source, peaks_of(source, tensors)).graph
    constants_of(evened)  # no name twice
    assert error_of(logits_of(evened, tensors), logits_of(source, tensors)) <= 1e-5


def test_a_channel_that_is_always_zero_and_one_that_is_never_taken_change_nothing() -> None:
    small = Small()
    for tensor in small.writer.graph.initializer:
        if tensor.name.startswith("cnn/a/"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[2] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    kernel = RNG.normal(0, 0.3, (5, 8, 2, 2))
    kernel[:, 4] = 0
    source = small.finish(small.convolve(relu(small), "cnn/b", kernel, RNG.normal(size=5)), 5)
    tensors = {"image": IMAGES}
    peaks = peaks_of(source, tensors)
    assert peaks["cnn/between"][2] == 0
    evened = even_channels(source, peaks).graph
    assert all(np.isfinite(values).all() for values in constants_of(evened).values())
    assert error_of(logits_of(evened, tensors), logits_of(source, tensors)) <= 1e-5


@pytest.mark.parametrize(
    ("size", "form"), [("small_source", "lstm"), ("small_source", "unrolled"), ("reduced_source", "lstm")]
)
def test_a_whole_model_stays_the_same_and_its_source_too(size: str, form: str, request: pytest.FixtureRequest) -> None:
    source: Source = request.getfixturevalue(size)
    graph, tensors = source.forms[form], tensors_of(source.spec, 4)
    peaks = peaks_of(source.forms["unrolled"], tensors)
    before = graph.SerializeToString()
    evened = even_channels(graph, peaks).graph
    assert graph.SerializeToString() == before
    check_graph(evened, source.spec, Declaration("lstm" if form == "lstm" else "unrolled"))
    assert error_of(logits_of(evened, tensors), logits_of(graph, tensors)) <= 5e-5
    assert serialize(even_channels(graph, peaks).graph) == serialize(evened)
    assert error_of(logits_of(even_channels(graph, {}).graph, tensors), logits_of(graph, tensors)) <= 1e-5


@pytest.mark.parametrize(
    ("padded", "scaling", "channels"),
    [
        (True, "xception", "rgb"),
        *((False, scaling, "rgb") for scaling in ("xception", "unit", "raw", "torch", "caffe")),
        (False, "caffe", "bgr"),
    ],
)
def test_pixels_come_onto_the_grid_of_signed_bytes_unless_a_padding_or_uneven_channels_would_leave_it(
    padded: bool, scaling: Scaling, channels: Channels
) -> None:
    """The middle of a byte's range is between two bytes: with zero among the integers, all would be half a step off."""
    spec = ModelSpec.make(branches="adopted", image_size=8, scaling=scaling, channels=channels)
    table, grid = scaled_values(scaling, channels), PixelGrid.of(spec)
    cnn = SmallCnn((8, 8, 3), padded=padded)
    cnn.writer.node("Transpose", ["image"], "cnn/first", perm=[0, 3, 1, 2])
    cnn.convolve("cnn/first", "cnn/a", RNG.normal(0, 0.3, (4, 3, 3, 3)), RNG.normal(size=4))
    source = cnn.finish("cnn/a", 4)
    tensors = {"image": table[RNG.integers(0, 256, (8, 8, 8, 3)), np.arange(3)]}
    means = {"cnn/first": np.array([0.1, 0.2, 0.3])}
    evened, moved, _ = even_channels(source, peaks_of(source, tensors), means, grid)
    assert error_of(logits_of(evened, tensors), logits_of(source, tensors)) <= 1e-5
    assert (table.min(), table.max()) == bounds(source, grid)["cnn/first"]
    with TensorSession(serialize(measured_graph(evened))) as session:
        found = session.run(tensors)
    assert (PIXELS in found) == (not padded and scaling != "torch")
    if PIXELS in found:
        assert grid.step
        steps = found[PIXELS] / grid.step
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert (np.rint(steps).min(), np.rint(steps).max()) == (-128, 127)
    offset = np.array(grid.offset) if PIXELS in found else 0
    np.testing.assert_allclose(moved["cnn/a"], means["cnn/first"] + offset)
    assert even_channels(source, {}).means == {}


def test_the_means_of_what_is_taken_are_divided_with_it() -> None:
    small = Small()
    source = small.finish(small.convolve(relu(small), "cnn/b", RNG.normal(0, 0.3, (8, 8, 2, 2)), RNG.normal(size=8)), 8)
    tensors = {"image": IMAGES}

    def means_of(model: onnx.ModelProto, names: tuple[str, ...]) -> dict[str, Array]:
        with TensorSession(serialize(measured_graph(model))) as session:
            return {name: session.run(tensors)[name].mean(axis=(0, 2, 3), dtype=np.float64) for name in names}

    evened, found, _ = even_channels(source, peaks_of(source, tensors), means_of(source, ("cnn/between",)))
    taken = next(node for node in evened.graph.node if node.name == "cnn/b").input[0]
    np.testing.assert_allclose(found["cnn/b"], means_of(evened, (taken,))[taken], rtol=1e-4)
    assert found.keys() == {"cnn/b"}
