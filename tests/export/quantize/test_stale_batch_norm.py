from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.models.standin import DIGITS

from hybrid_edge.calib import TensorStatistics, measure_statistics
from hybrid_edge.export.convert.fp32_graph import GraphBuilder
from hybrid_edge.export.quantize.stale_batch_norm import MAX_RATIO, StaleReport, batch_norm_outputs, stale_layers
from hybrid_edge.runtime.preprocess import Preprocessor, read_image
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.best_weights import reestimate

SPEC = ModelSpec(image_size=16, timesteps=16, branches="cnn", backbone="digits", class_labels=tuple("abc"))
NORMS = ("first_bn", "second_bn", "shortcut_bn")


def build(spec: ModelSpec = SPEC) -> Any:
    """A CNN with BatchNorm behind an ordinary, a separable and a shortcut convolution, in Xception's manner."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    shape: dict[str, Any] = {
        "gamma_initializer": keras.initializers.RandomUniform(0.5, 2),
        "beta_initializer": "normal",
    }
    image = keras.Input(spec.image_shape)
    value = layers.Conv2D(8, 3, use_bias=False, name="first")(image)
    start = layers.ReLU(name="first_act")(layers.BatchNormalization(name=NORMS[0], **shape)(value))
    value = layers.SeparableConv2D(12, 3, padding="same", use_bias=False, name="second")(start)
    value = layers.BatchNormalization(name=NORMS[1], **shape)(value)
    side = layers.Conv2D(12, 1, use_bias=False, name="shortcut")(start)
    side = layers.BatchNormalization(name=NORMS[2], **shape)(side)
    cnn = keras.Model(
        image, layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="add")([value, side])), name="cnn"
    )
    outer = keras.Input(spec.image_shape, name="image")
    logits = layers.Dense(spec.num_classes, name="logits")(cnn(outer))
    return keras.Model(outer, layers.Softmax(name="probabilities")(logits))


@pytest.fixture(scope="module")
def paths(photos: Path) -> tuple[Path, ...]:
    return tuple(sorted(photos.rglob("*.png")))


@pytest.fixture(scope="module")
def report(paths: tuple[Path, ...]) -> Callable[[Any, ModelSpec], StaleReport]:
    """From a Keras model to the report, over real photographs."""

    def make(model: Any, spec: ModelSpec) -> StaleReport:
        graph = GraphBuilder(model, spec).build()
        outputs = batch_norm_outputs(model, graph)
        for name in outputs.values():
            graph.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        return stale_layers(model, outputs, measure_statistics(graph.SerializeToString(), paths, spec).statistics)

    return make


@pytest.fixture
def model(paths: tuple[Path, ...]) -> Any:
    """With statistics that fit the photographs."""
    built = build()
    tensors = Preprocessor(SPEC)([read_image(path) for path in paths])
    reestimate(built, [tensors["image"]] * 40, momentum=0.5)
    return built


def test_statistics_that_fit_give_a_ratio_of_one(model: Any, report: Callable[..., StaleReport]) -> None:
    found = report(model, SPEC)
    assert tuple(found.ratios) == NORMS
    assert list(found.ratios.values()) == pytest.approx([1, 1, 1], abs=0.02)
    assert (found.stale, found.warning) == ((), None)


@pytest.mark.parametrize(("factor", "sign"), [(0.1, 1), (10.0, -1)])
def test_a_layer_whose_averages_are_stale_is_named_as_the_cause(
    model: Any, report: Callable[..., StaleReport], factor: float, sign: int
) -> None:
    second = model.get_layer("cnn").get_layer("second_bn")
    second.moving_variance.assign(second.moving_variance * factor)
    found = report(model, SPEC)
    assert found.stale == ("second_bn",)
    assert found.worst[0] == "second_bn"
    assert sign * np.log(found.worst[1]) > np.log(MAX_RATIO)
    assert "moving averages are stale" in found.warning
    assert "1 of 3 layers" in found.warning
    assert "hybrid-train --resume" in found.warning


def test_averages_that_were_never_updated_are_found(report: Callable[..., StaleReport]) -> None:
    assert report(build(), SPEC).stale


def test_every_batch_norm_of_xception_is_found_behind_its_own_convolution(exported_reduced: Any) -> None:
    graph = onnx.load(exported_reduced.graph)
    outputs = batch_norm_outputs(exported_reduced.model, graph)
    names = [item.name for item in exported_reduced.model.get_layer("cnn").layers]
    assert list(outputs) == [name for name in names if "norm" in name or "_bn" in name]
    assert len(set(outputs.values())) == 40
    made_by = {output: node for node in graph.graph.node for output in node.output}
    used_by = {name: node for node in graph.graph.node for name in node.input}
    for norm, tensor in outputs.items():
        assert made_by[tensor].op_type == "Conv"
        if norm.startswith("block") and "sepconv" in norm:  # tf2onnx keeps the name of the depthwise half
            assert f"/{norm.removesuffix('_bn')}_" in made_by[tensor].input[0]
        elif norm.startswith("block"):
            assert used_by[tensor].op_type == "Relu"
            assert norm.removesuffix("_bn") in used_by[tensor].name


def test_batch_norm_behind_lstms_is_judged_where_it_is_a_step_of_its_own(report: Callable[..., StaleReport]) -> None:
    from hybrid_edge.train.model import build_model

    joined = build_model(DIGITS.replace(rnn_batch_norm=True))
    found = report(joined, DIGITS.replace(rnn_batch_norm=True))
    assert list(found.ratios) == ["rnn_batch_norm"]
    assert found.stale == ("rnn_batch_norm",), "an untrained average"
    folded = DIGITS.replace(branches="rnn", rnn_batch_norm=True)
    assert report(build_model(folded), folded) == StaleReport({})


def test_a_layer_that_was_not_measured_is_not_judged(model: Any) -> None:
    found = stale_layers(model, {"first_bn": "one", "second_bn": "two"}, {"one": TensorStatistics("one")})
    assert found == StaleReport({})
    assert found.worst == ("", 1.0)
    assert found.warning is None
