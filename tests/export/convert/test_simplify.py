"""What is rewritten of tf2onnx's graphs, and what looks alike and must stay."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from support.models.lowered import error_of

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.graph_writer import GraphWriter
from hybrid_edge.export.convert.inspection import count_operators
from hybrid_edge.export.convert.simplify import simplify
from hybrid_edge.runtime.backends.onnxruntime import TensorSession

Array = npt.NDArray[np.float32]
CHANNELS, SIDE = 6, 5
RNG = np.random.default_rng(0)


class Written(GraphWriter):
    """A graph of an image (N, 6, 5, 5), to which operators are added one behind the other."""

    def __init__(self) -> None:
        super().__init__("small")
        self.value = self.input("image", (CHANNELS, SIDE, SIDE))

    def then(self, operator: str, *constants: Any, first: bool = False, **attributes: Any) -> "Written":
        """Add an operator that takes what there is, and constants."""
        name = f"{operator}_{len(self.graph.node)}"
        named = [self.constant(f"{name}/{place}", np.asarray(item)) for place, item in enumerate(constants)]
        inputs = [*named, self.value] if first else [self.value, *named]
        self.value = self.node(operator, inputs, name, **attributes)
        return self

    def convolve(self, outputs: int = CHANNELS, group: int = 1) -> "Written":
        """Add a 3x3 convolution."""
        return self.then("Conv", floats(outputs, CHANNELS // group, 3, 3), group=group)

    def finish(self) -> None:
        """Let the graph end with what there is."""
        self.graph.output.append(onnx.helper.make_tensor_value_info(self.value, onnx.TensorProto.FLOAT, None))
        self.model.opset_import.append(onnx.helper.make_opsetid("", 17))
        self.model.ir_version = 8

    def simplified(self) -> dict[str, int]:
        """Simplify the graph, which must compute the same, and count its operators."""
        self.finish()
        image = {"image": floats(2, CHANNELS, SIDE, SIDE)}
        before = run(self.model, image)
        simplify(self.model)
        assert error_of(run(self.model, image), before) < 1e-5
        return count_operators(self.model)


def run(model: onnx.ModelProto, tensors: dict[str, Array], *, simulated: bool = False) -> Array:
    with TensorSession(serialize(model), threads=1, simulated=simulated) as session:
        return next(iter(session.run(tensors).values()))


def floats(*shape: int) -> Array:
    return RNG.normal(0, 1, shape).astype(np.float32)


def channels() -> Array:
    return floats(1, CHANNELS, 1, 1)


PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1], np.int64)
ON_CHANNELS = np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int64)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (lambda g: g.convolve(group=CHANNELS).then("Mul", channels()).then("Add", channels()), {"Conv": 1}),
        (lambda g: g.then("Mul", channels()).then("Add", channels()).then("Relu"), {"Conv": 1, "Relu": 1}),
        (lambda g: g.then("Relu").then("Mul", channels()), {"Conv": 1, "Relu": 1}),
        (lambda g: g.then("Mul", np.float32(2)), {"Mul": 1}),
        (lambda g: g.convolve().then("Mul", floats(1, 1, 3, 3)), {"Conv": 1, "Mul": 1}),
        (lambda g: g.then("Pad", PADS).convolve(), {"Conv": 1}),
        (lambda g: g.then("Pad", PADS, np.float32(1)).convolve(), {"Conv": 1, "Pad": 1}),
        (lambda g: g.then("Pad", PADS, mode="reflect").convolve(), {"Conv": 1, "Pad": 1}),
        (lambda g: g.then("Relu").then("Pad", PADS).then("MaxPool", kernel_shape=[3, 3]), {"MaxPool": 1, "Relu": 1}),
        (
            lambda g: (
                g.then("Add", np.float32(3)).then("Clip", np.float32(0), np.float32(6)).then("Mul", np.float32(1 / 6))
            ),
            {"HardSigmoid": 1},
        ),
        (
            lambda g: (
                g.then("Add", np.float32(2)).then("Clip", np.float32(0), np.float32(6)).then("Mul", np.float32(1 / 6))
            ),
            {"Add": 1, "Clip": 1, "Mul": 1},
        ),
        (
            lambda g: (
                g.then("GlobalAveragePool").then("Squeeze", np.array([2, 3])).then("Reshape", np.array([-1, 6, 1, 1]))
            ),
            {"GlobalAveragePool": 1, "Squeeze": 1, "Reshape": 1},  # the graph's own result keeps its name
        ),
        (
            lambda g: (
                g.then("GlobalAveragePool")
                .then("Squeeze", np.array([2, 3]))
                .then("Reshape", np.array([-1, 6, 1, 1]))
                .then("Sigmoid")
            ),
            {"GlobalAveragePool": 1, "Sigmoid": 1},
        ),
    ],
)
def test_operators_are_rewritten_to_the_same_function(graph: Any, expected: dict[str, int]) -> None:
    assert graph(Written()).simplified() == expected


def test_a_convolution_that_something_else_takes_keeps_its_own_weights() -> None:
    written = Written().convolve(group=CHANNELS)
    before = written.value
    written.then("Mul", channels())
    written.value = written.node("Add", [before, written.value], "sum")
    assert written.simplified() == {"Add": 1, "Conv": 2}


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("given", [(), (np.float32(0),)], ids=["by-default", "given"])
def test_zeros_around_what_is_negative_stay_the_largest_at_its_edges(given: tuple[Any, ...], simulated: bool) -> None:
    """ONNX Runtime by itself leaves them out, which moved ResNet50V2's logits by half a per cent of the largest."""
    written = Written().then("Neg").then("Pad", PADS, *given).then("MaxPool", kernel_shape=[3, 3], strides=[2, 2])
    written.finish()
    simplify(written.model)
    pooled = run(written.model, {"image": np.ones((1, CHANNELS, SIDE, SIDE), np.float32)}, simulated=simulated)
    edges = np.zeros((3, 2), bool)
    edges[0] = edges[-1] = True
    np.testing.assert_allclose(pooled, np.broadcast_to(np.where(edges, 0, -1), pooled.shape), atol=1e-7)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [((1, 1), 1), ((1, -3), 1), ((2, 1), 2)],
    ids=["channels", "counted-back", "rows-and-channels"],
)
def test_parts_of_a_concatenation_are_joined_at_once(axes: tuple[int, int], expected: int) -> None:
    """Bytes that went through twenty scales of DenseNet121 lost six labels of ten."""
    written = Written()
    inner = written.node(
        "Concat", [written.value, written.node("Relu", [written.value], "relu")], "inner", axis=axes[0]
    )
    written.value = written.node("Concat", [inner, inner], "outer", axis=axes[1])
    assert written.simplified().get("Concat") == expected
