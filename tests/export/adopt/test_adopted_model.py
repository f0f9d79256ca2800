from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from support.models.adopted import SIZE, bidirectional_rows, cnn, cnn_and_gru, with_rescaling

from hybrid_edge.export.adopt.adopted_model import in_our_shape
from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.convert.recurrent import Form
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.errors import ConversionError, ModelFileError
from hybrid_edge.runtime.spec import ModelSpec


def classifier(*end: Any) -> Any:
    return cnn(layers.Flatten(), *end)


def by_operations(last: Callable[[Any], Any]) -> Any:
    image = layers.Input((SIZE, SIZE, 3))
    return keras.Model(image, last(layers.Dense(5)(layers.Flatten()(image))))


def inside(model: Any) -> Any:
    return keras.Sequential([layers.Input((SIZE, SIZE, 3)), model])


def share(value: Any) -> Any:
    return ops.exp(value) / ops.sum(ops.exp(value), axis=-1, keepdims=True)


def twice(layer: Any) -> Any:
    image = layers.Input((SIZE, SIZE))
    return keras.Model(image, layers.Dense(5, activation="softmax")(layers.Add()([layer(image), layer(-image)])))


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "Dense with a softmax": (lambda: classifier(layers.Dense(5, activation="softmax")), "softmax"),
    "a softmax behind it": (lambda: classifier(layers.Dense(5), layers.Softmax()), "softmax"),
    "an activation": (lambda: classifier(layers.Dense(5), layers.Activation("softmax")), "softmax"),
    "a softmax and a reshape": (
        lambda: cnn(layers.Conv2D(5, 11, activation="softmax"), layers.Reshape((5,))),
        "softmax",
    ),
    "an operation": (lambda: by_operations(ops.softmax), "softmax"),
    "a model in a model": (
        lambda: keras.Sequential([layers.Input((SIZE, SIZE, 3)), classifier(layers.Dense(5, activation="softmax"))]),
        "softmax",
    ),
    "logits": (lambda: classifier(layers.Dense(5)), "logits"),
    "pooled logits": (lambda: cnn(layers.Conv2D(5, 3), layers.GlobalAveragePooling2D()), "logits"),
    "one sigmoid": (lambda: classifier(layers.Dense(1, activation="sigmoid")), "sigmoid"),
    "one logit": (lambda: classifier(layers.Dense(1)), "logits"),
    "another softmax": (lambda: by_operations(share), "probabilities"),
    "rescaling": (with_rescaling, "logits"),
    "a GRU": (cnn_and_gru, "softmax"),
    "bidirectional": (bidirectional_rows, "softmax"),
    "a GRU shared by two": (lambda: twice(layers.GRU(6)), "softmax"),
}


@pytest.mark.parametrize("form", ["lstm", "unrolled"])
@pytest.mark.parametrize("name", MODELS)
def test_the_graph_gives_what_the_files_model_gives_whatever_its_end(name: str, form: Form) -> None:
    build, scores = MODELS[name]
    keras.utils.set_random_seed(1)
    source = build()
    adopted = in_our_shape(source)
    assert adopted.scores == scores
    channels = "gray" if adopted.image_shape[2] == 1 else "rgb"
    labels = tuple(map(str, range(adopted.num_classes)))
    spec = ModelSpec.make(branches="adopted", image_size=SIZE, channels=channels, class_labels=labels)
    image = np.random.default_rng(2).uniform(-1, 1, (3, *adopted.image_shape)).astype(np.float32)
    builder = GraphBuilder(adopted.model, spec)
    assert builder.parts.recurrent == ("GRU" in name or "bidirectional" in name)
    graph = builder.build(form)
    with TensorSession(serialize(graph)) as session:
        found = session.run({"image": image})
    np.testing.assert_allclose(found["probabilities"], adopted.probabilities(image), atol=2e-6)
    own = adopted.original_scores(image)
    if scores != "logits":
        np.testing.assert_allclose(found["probabilities"], own, atol=2e-6)
    elif own.shape[1] > 1:
        np.testing.assert_allclose(found["logits"], own, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_allclose(found["logits"], np.concatenate([0 * own, own], axis=1), rtol=1e-4, atol=1e-5)
    assert graph.graph.node[-2].output == ["logits"]


def test_a_layer_inside_that_scales_pixels_is_seen() -> None:
    assert in_our_shape(with_rescaling()).normalizes.startswith("rescaling")
    assert not in_our_shape(cnn_and_gru()).normalizes


def of_shape(shape: tuple[int | None, ...], *behind: Any) -> Any:
    return keras.Sequential([layers.Input(shape), *(behind or (layers.Flatten(), layers.Dense(4)))])


def several() -> Any:
    image = layers.Input((SIZE, SIZE, 3))
    flat = layers.Flatten()(image)
    return keras.Model(image, [layers.Dense(2)(flat), layers.Dense(3)(flat)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: of_shape((784,)), r"one image \(N, S, S, 3\) or .*found \(N, 784\)"),
        (lambda: of_shape((3, SIZE, SIZE)), "channels come last"),
        (lambda: of_shape((SIZE, 2 * SIZE, 3)), f"square images, found {SIZE}x{2 * SIZE}"),
        (lambda: of_shape((SIZE, SIZE, 4)), f"found .N, {SIZE}, {SIZE}, 4"),
        (
            lambda: of_shape((None, None, 3), layers.GlobalMaxPooling2D(), layers.Dense(2)),
            "say which with",
        ),
        (lambda: of_shape((SIZE, SIZE, 3), layers.Conv2D(4, 3)), r"one vector of class scores \(N, K\), found"),
        (lambda: classifier(layers.Dense(5, activation="sigmoid")), "found 5 sigmoids"),
        (lambda: classifier(layers.Dense(1, activation="softmax")), "always 1"),
        (several, "found 1 inputs and 2 outputs"),
    ],
    ids=range(9),
)
def test_what_is_no_classifier_of_one_image_is_refused_with_what_was_found(
    build: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        in_our_shape(build())


def test_images_of_any_size_get_one_and_a_fixed_size_none_other() -> None:
    any_size = of_shape((None, None, 3), layers.GlobalMaxPooling2D(), layers.Dense(2))
    assert in_our_shape(any_size, 20).image_shape == (20, 20, 3)
    with pytest.raises(ModelFileError, match="--image-size 20: the model takes 24x24"):
        in_our_shape(cnn_and_gru(), 20)


@pytest.mark.parametrize(
    ("layer", "message"),
    [(layers.SimpleRNN(4), "SimpleRNN"), (layers.LSTM(4, activation="relu"), "activation tanh, found relu")],
)
def test_a_recurrent_layer_that_cant_be_written_is_named(layer: Any, message: str) -> None:
    adopted = in_our_shape(keras.Sequential([layers.Input((SIZE, SIZE)), layer, layers.Dense(3)]))
    spec = ModelSpec.make(branches="adopted", image_size=SIZE, channels="gray", class_labels=("a", "b", "c"))
    with pytest.raises(ConversionError, match=message):
        GraphBuilder(adopted.model, spec)
