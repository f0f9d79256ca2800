"""What plans are told of an adopted model's recurrent layers."""

from typing import Any

import keras
import pytest
from keras import layers

from hybrid_edge.export.artifacts import ModelParts
from hybrid_edge.export.convert.fp32_graph import GraphBuilder
from hybrid_edge.runtime.spec import ModelSpec

SPEC = ModelSpec(branches="adopted", image_size=16, class_labels=("a", "b"))
GRU_STEP = 3 * 8 * (16 * 4 + 8)  # gates, units, inputs and units


def adopted(*before: Any) -> Any:
    """A model whose recurrent layer reads what ``before`` makes of an image, row by row."""
    value = image = keras.Input((16, 16, 3), name="image")
    for layer in (*before, layers.Reshape((16, -1)), layers.GRU(8)):
        value = layer(value)
    scores = layers.Dense(2, name="logits")(value)
    return keras.Model(image, layers.Softmax(name="probabilities")(scores))


def convolution(filters: int) -> Any:
    return layers.Conv2D(filters, 3, padding="same")


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ((convolution(8), convolution(4)), ModelParts(True, True, 8, GRU_STEP, 16)),
        ((convolution(4),), ModelParts(True, True, 8, None, 16)),  # on a CPU a convolution of the image is no INT8
        ((), ModelParts(True, False, 8, None, 16)),  # the head is never in INT8
    ],
    ids=["two convolutions", "one convolution", "none"],
)
def test_parts_say_where_int8_is_besides_recurrent_layers_and_how_large_their_steps_are(
    before: tuple[Any, ...], expected: ModelParts
) -> None:
    assert GraphBuilder(adopted(*before), SPEC).parts == expected
