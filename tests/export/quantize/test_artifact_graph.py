from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from support.models.lowered import (
    SMALL,
    Source,
    constants_of,
    error_of,
    logits_of,
    measured_source,
    randomize,
    tensors_of,
)

from hybrid_edge.calib import Binding, Calibration
from hybrid_edge.export.artifacts import PRECISIONS, Artifact, ModelParts, plan_artifacts
from hybrid_edge.export.convert.fp32_graph import GraphBuilder
from hybrid_edge.export.convert.graph_reading import quantizable
from hybrid_edge.export.convert.inspection import describe, operations
from hybrid_edge.export.quantize.artifact_graph import ActivationSurvey, ArtifactGraphs, Int8Ranges
from hybrid_edge.export.quantize.calibration_graph import choose_ranges
from hybrid_edge.export.quantize.equalize import channel_tensors
from hybrid_edge.export.quantize.gpu_graph import ActivationPeaks
from hybrid_edge.runtime.errors import ConversionError
from hybrid_edge.train.model import build_model

ON_CPU = Artifact("int8", "unrolled", ("cpu",))
ON_TENSORRT = Artifact("int8", "unrolled", ("tensorrt",))
ON_GPU = Artifact("fp16", "lstm", ("cuda", "tensorrt"))


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(0)
    model = build_model(SMALL)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def source(model: Any) -> tuple[GraphBuilder, Source]:
    builder = GraphBuilder(model, SMALL)
    return builder, measured_source(SMALL, {"lstm": builder.build("lstm"), "unrolled": builder.build("unrolled")})


@pytest.fixture
def graphs(source: tuple[GraphBuilder, Source]) -> ArtifactGraphs:
    """Nothing beyond FP16, and channels that need no evening out."""
    builder, measured = source
    return ArtifactGraphs(builder, SMALL, int8=Int8Ranges(measured.signed, measured.unsigned))


def test_every_planned_artifact_is_written_checked_and_in_its_precision(graphs: ArtifactGraphs) -> None:
    expected = {
        "fp32": ("FP32", "FP32"),
        "w8": ("FP32", "54/57 matrix products with 8-bit weights"),
        "fp16": ("FP16", "FP16"),
        "int8": ("INT8", "INT8"),
    }
    for artifact in plan_artifacts(PRECISIONS, "auto", ModelParts.of_branches(SMALL)):
        cnn, rnn, form = describe(graphs.write(artifact))
        of_cnn, of_rnn = expected[artifact.precision]
        if artifact.precision == "int8" and artifact.recurrent == "lstm":
            of_rnn = "FP16"
        convolutions = f"3/3 convolutions {of_cnn}"
        if artifact.runs_integers_on_cpu:  # an image's three channels stay in float
            convolutions = "2/3 convolutions INT8, 1/3 convolutions FP32"
        assert cnn == f"CNN: {convolutions}, 1/1 matrix products {of_cnn}"
        assert of_rnn in rnn
        assert ("2 LSTM" in form) == (artifact.recurrent == "lstm")


def test_a_source_that_is_not_what_was_declared_is_refused(graphs: ArtifactGraphs, source: Any) -> None:
    class Confused:
        def build(self, _form: str) -> Any:
            return source[1].forms["lstm"]

    confused = replace(graphs, builder=Confused())
    for precision in PRECISIONS:
        with pytest.raises(ConversionError, match="unrolled steps: expected 56, found 0"):
            confused.write(Artifact(precision, "unrolled", ("tensorrt",)))


def test_what_fp16_cannot_hold_is_wide_in_fp16_and_in_tensorrts_int8(graphs: ArtifactGraphs) -> None:
    beyond = {"rnn/lstm_2/gates": 1e6}
    half = replace(graphs, half=ActivationPeaks(beyond))
    assert describe(half.write(ON_GPU))[1] == "recurrent branch: 1/1 matrix products FP16, 1/2 LSTM FP16, 1/2 LSTM FP32"
    # each of the two has activations of its own: INT8 is made from evened channels
    assert "2/2 LSTM FP16" in describe(half.write(replace(ON_TENSORRT, recurrent="lstm")))[1]
    quantized = replace(graphs, int8=replace(graphs.int8, peaks=ActivationPeaks(beyond)))
    assert "2/2 LSTM FP16" in describe(quantized.write(ON_GPU))[1]
    casts = {node.name for node in quantized.write(ON_TENSORRT).graph.node if node.op_type == "Cast"}
    assert "rnn/lstm_2/step_05/recurrent:fp32" in casts
    assert not any(name.startswith("rnn/lstm_1/step") for name in casts)


def test_layers_given_back_are_wider_and_those_that_are_not_there_do_not_matter(graphs: ArtifactGraphs) -> None:
    wider = ["rnn/lstm_1", *(name for name in graphs.parameters("unrolled") if "dense" in name), "no such layer"]
    all_but_the_first = "2/3 convolutions INT8, 1/3 convolutions FP32"
    for artifact, other, cnn in ((ON_TENSORRT, "FP16", "3/3 convolutions INT8"), (ON_CPU, "FP32", all_but_the_first)):
        found = describe(graphs.write(artifact, wider))
        assert found[0] == f"CNN: {cnn}, 1/1 matrix products {other}"
        assert found[1] == f"recurrent branch: 28/57 matrix products INT8, 29/57 matrix products {other}"


def test_int8_is_made_from_evened_channels_and_the_others_are_not(graphs: ArtifactGraphs) -> None:
    pooled = next(name for name in channel_tensors(graphs.source("unrolled")) if "conv_1_pool" in name)
    uneven = {pooled: np.geomspace(0.01, 1, 32).astype(np.float32)}
    evened = replace(graphs, survey=ActivationSurvey(uneven))
    tensors = tensors_of(SMALL, 4)
    assert (
        error_of(logits_of(evened.evened("unrolled").graph, tensors), logits_of(graphs.source("lstm"), tensors)) <= 1e-5
    )
    for precision in PRECISIONS:
        artifact = Artifact(precision, "unrolled", ("cpu" if precision == "w8" else "tensorrt",))
        one, other = (list(constants_of(item.write(artifact)).values()) for item in (evened, graphs))
        assert len(one) == len(other)
        assert all(map(np.array_equal, one, other)) == (precision != "int8")


def test_int8_that_gave_everything_back_is_the_wider_graph(graphs: ArtifactGraphs) -> None:
    everything = list(graphs.parameters("unrolled"))
    half = graphs.write(Artifact("fp16", "unrolled", ("tensorrt",)))
    back, tensors = graphs.write(ON_TENSORRT, everything), tensors_of(SMALL, 4)
    assert describe(back) == describe(half)
    np.testing.assert_array_equal(logits_of(back, tensors, "fp16"), logits_of(half, tensors, "fp16"))
    assert "INT8" not in str(describe(graphs.write(ON_CPU, everything)))


def test_weights_whose_neighbours_keep_together_to_16_bits_are_for_the_cpu_alone(graphs: ArtifactGraphs) -> None:
    def largest_pair(artifact: Artifact) -> int:
        weights = [v.astype(int) for v in constants_of(graphs.write(artifact)).values() if v.dtype == np.int8]
        return max(int(np.abs(item[::2] + item[1::2]).max()) for item in weights if item.ndim == 2)  # products, (I, O)

    assert largest_pair(ON_CPU) <= 128 < largest_pair(ON_TENSORRT)


def test_the_layers_and_their_weights_are_listed_in_the_order_of_the_graph(graphs: ArtifactGraphs, model: Any) -> None:
    cnn = model.get_layer("cnn")
    of_cnn = [cnn.get_layer(name).get_weights()[0].size for name in ("conv_1", "conv_2", "conv_3", "dense")]
    of_rnn = [
        sum(weight.size for weight in model.get_layer("rnn").get_layer(name).get_weights()[:2])
        for name in ("lstm_1", "lstm_2")
    ]
    found = graphs.parameters("unrolled")
    assert list(found.values()) == of_cnn + of_rnn
    assert list(found)[-2:] == ["rnn/lstm_1", "rnn/lstm_2"]
    assert list(graphs.parameters("lstm").values()) == of_cnn


def test_one_layer_alone_may_be_quantized_with_all_others_in_fp32(graphs: ArtifactGraphs) -> None:
    evened = graphs.evened("unrolled")
    for layer, nodes in quantizable(evened.graph).items():
        found = operations(graphs.quantize_in_fp32(evened, [layer]))
        assert {name for name, precision in found.items() if precision == "INT8"} == {node.name for node in nodes}
        assert set(found.values()) == {"INT8", "FP32"}


def test_ranges_are_symmetric_for_tensorrt_as_measured_for_the_cpu_and_bounded_in_both(source: Any) -> None:
    measured = source[1]
    calibration = Calibration(measured.statistics, Binding("", "", "", ""), 32, reason="")
    graph = measured.forms["unrolled"]
    for method in ("minmax", "entropy", "percentile"):
        signed, unsigned = (choose_ranges(calibration, graph, method, symmetric=item) for item in (True, False))
        assert signed.keys() == unsigned.keys() == measured.statistics.keys()
        for name, item in measured.statistics.items():
            assert signed[name].low == -signed[name].high
            assert signed[name].high <= item.peak
            assert min(item.low, 0) <= unsigned[name].low <= 0 <= unsigned[name].high <= max(item.high, 0)
        assert signed["rnn/lstm_2/hidden"].high <= 1
        assert signed["image"].high <= 1
    minmax = choose_ranges(calibration, graph, "minmax", symmetric=False)
    assert minmax["rnn/lstm_1/gates"] == (
        measured.statistics["rnn/lstm_1/gates"].low,
        measured.statistics["rnn/lstm_1/gates"].high,
    )
