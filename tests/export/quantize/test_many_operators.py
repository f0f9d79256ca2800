"""Every kind of layer a classifier for images is built of, through FP32, FP16 and INT8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from support.gpu.network_summary import inspect_graph
from support.models.lowered import SmallCnn, error_of, logits_of, randomize, rms_error, statistics_of, tensors_of
from support.models.many_operators import CLASSES, NETWORKS, SIDE, build_network

from hybrid_edge.calib import Calibration, Range
from hybrid_edge.export.artifacts import plan_artifacts
from hybrid_edge.export.bundle.cost import measure_cost
from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.convert.graph_reading import arrays, is_affine
from hybrid_edge.export.convert.inspection import count_operators, operations
from hybrid_edge.export.quantize.artifact_graph import ActivationSurvey, ArtifactGraphs, Int8Ranges
from hybrid_edge.export.quantize.calibration_graph import choose_ranges, measured_graph
from hybrid_edge.export.quantize.cpu_graph import CpuGraph
from hybrid_edge.export.quantize.equalize import channel_tensors
from hybrid_edge.export.quantize.int8_weights import MAX_PAIR_SUM
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.engines.library import find_library
from hybrid_edge.runtime.spec import ModelSpec

Array = npt.NDArray[np.float32]

SPEC = ModelSpec(branches="adopted", image_size=SIDE, class_labels=tuple("abcde")[:CLASSES])
IMAGES, SURVEYED = 24, 1001  # SURVEYED: the seed of the images that channels are measured on
# RMS over RMS of what FP16 and INT8 make of these shallow networks, whose weights are random
FP16_ERROR, INT8_ERROR = 0.01, 0.12
FLAT = ("strided", "mobile")
CASES = [(name, False) for name in NETWORKS] + [(name, True) for name in FLAT]
every_network = pytest.mark.parametrize(("name", "flat"), CASES, ids=[f"{n} flat" if f else n for n, f in CASES])


@dataclass(frozen=True)
class Lowered:
    """A network's graphs, and what Keras gives."""

    graphs: dict[str, onnx.ModelProto]
    evened: onnx.ModelProto
    expected: Array
    tensors: dict[str, Array]


@cache
def lowered(name: str, flat: bool) -> Lowered:
    model = build_network(name, flat=flat)
    randomize(model)
    builder = GraphBuilder(model, SPEC)
    graphs = prepared(ArtifactGraphs(builder, SPEC))
    tensors = tensors_of(SPEC, IMAGES)
    written = {
        "int8-cpu" if artifact.runs_integers_on_cpu else artifact.precision: graphs.write(artifact)
        for artifact in plan_artifacts(("fp32", "fp16", "int8"), "auto", builder.parts)
    }
    logits = keras.Model(model.input, model.get_layer("logits").output)(tensors["image"])
    return Lowered(written, graphs.evened("none").graph, np.asarray(logits), tensors)


def prepared(graphs: ArtifactGraphs) -> ArtifactGraphs:
    """With a survey and ranges, as ``prepare`` measures them."""
    source, tensors = graphs.source("none"), tensors_of(SPEC, IMAGES, seed=SURVEYED)
    with TensorSession(measured_graph(source).SerializeToString()) as session:
        found = session.run(tensors)
    wanted = {name: found[name] for name in channel_tensors(source)}
    peaks = {name: np.abs(value).max(axis=(0, *range(2, value.ndim))) for name, value in wanted.items()}
    means = {name: value.mean(axis=(0, *range(2, value.ndim)), dtype=np.float64) for name, value in wanted.items()}
    surveyed = ArtifactGraphs(graphs.builder, SPEC, ActivationSurvey(peaks, means))
    evened = surveyed.evened("none").graph
    statistics = Calibration(statistics_of(measured_graph(evened), tensors), Any, IMAGES, "")  # type: ignore[arg-type]
    signed, unsigned = (choose_ranges(statistics, evened, "minmax", symmetric=item) for item in (True, False))
    return ArtifactGraphs(graphs.builder, SPEC, surveyed.survey, None, Int8Ranges(signed, unsigned))


@every_network
def test_the_graph_computes_what_keras_computes_of_plain_operators(name: str, flat: bool) -> None:
    network = lowered(name, flat)
    assert error_of(logits_of(network.graphs["fp32"], network.tensors), network.expected) < 1e-5
    counts = count_operators(network.graphs["fp32"])
    assert not counts.keys() & {"Loop", "If", "BatchNormalization", "ReduceProd", "StatefulPartitionedCall"}


@every_network
def test_evening_the_channels_out_does_not_change_the_function_on_what_was_surveyed(name: str, flat: bool) -> None:
    network, surveyed = lowered(name, flat), tensors_of(SPEC, IMAGES, seed=SURVEYED)
    assert error_of(logits_of(network.evened, surveyed), logits_of(network.graphs["fp32"], surveyed)) < 2e-5


@every_network
@pytest.mark.parametrize(("variant", "most"), [("fp16", FP16_ERROR), ("int8", INT8_ERROR), ("int8-cpu", INT8_ERROR)])
def test_a_narrower_precision_stays_near(variant: str, most: float, name: str, flat: bool) -> None:
    network = lowered(name, flat)
    kind = {"int8": "int8-tensorrt"}.get(variant, variant)
    assert rms_error(logits_of(network.graphs[variant], network.tensors, kind), network.expected) < most


@every_network
def test_every_convolution_and_dense_layer_behind_the_image_is_int8(name: str, flat: bool) -> None:
    network = lowered(name, flat)
    dense = {
        node.name
        for node in network.graphs["fp32"].graph.node
        if node.op_type == "ConvTranspose" or (node.op_type == "MatMul" and node.input[1] not in constants(network))
    }
    for variant in ("int8", "int8-cpu"):
        found = operations(network.graphs[variant])
        wide = {key for key, precision in found.items() if precision != "INT8" and key not in dense | {"logits"}}
        assert len(wide) == (1 if variant == "int8-cpu" else 0), wide  # the first takes an image of three channels
        assert sum(measure_cost(network.graphs[variant]).cnn.macs.values()) > 0


@pytest.mark.parametrize("name", ["preactivated", "dense"])
def test_a_normalization_before_a_convolution_takes_floats_on_a_cpu(name: str) -> None:
    """One scale for all channels of a residual stream or a concatenation cost 10 to 13 % of the labels."""
    nodes = lowered(name, False).graphs["int8-cpu"].graph.node
    makers = {made: node.op_type for node in nodes for made in node.output}
    taken = [makers.get(node.input[0]) for node in nodes if is_affine(node)]
    assert len(taken) > 2
    assert not set(taken) & {"QuantizeLinear", "DequantizeLinear"}


@every_network
def test_weights_for_the_cpu_fit_where_16_bits_add_them_up(name: str, flat: bool) -> None:
    graph = lowered(name, flat).graphs["int8-cpu"]
    integers = {key: value for key, value in arrays(graph).items() if value.dtype == np.int8 and value.ndim > 1}
    assert integers
    for key, value in integers.items():
        if value.ndim == 4 and value.shape[1] == 1:  # depthwise: no CPU adds these up in 16 bits
            continue
        rows = value.T if value.ndim == 2 else np.moveaxis(value, 1, -1).reshape(len(value), -1)
        pairs = rows[:, : rows.shape[1] // 2 * 2].reshape(len(rows), -1, 2).astype(int).sum(axis=2)
        assert np.abs(pairs).max(initial=0) <= MAX_PAIR_SUM, key


@every_network
def test_tensorrt_takes_every_precision_and_its_integers(name: str, flat: bool) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'hybrid-edge[rtx]'")
    network, rtx = lowered(name, flat), find_library("rtx")
    for variant in ("fp32", "fp16", "int8"):
        graph = network.graphs[variant]
        parsed = inspect_graph(serialize(graph), SPEC, rtx)
        integers = {key for key, precision in operations(graph).items() if precision == "INT8"}
        assert {product.name for product in parsed.products if product.quantized} == integers


@pytest.mark.parametrize(("minimum", "maximum", "folded"), [(0.0, 6.0, True), (0.0, 1.0, False), (-1.0, 6.0, False)])
def test_only_a_clip_that_cuts_where_the_bytes_end_is_left_to_them(
    minimum: float, maximum: float, folded: bool
) -> None:
    cnn = SmallCnn((4, 8, 8))
    rng = np.random.default_rng(0)
    first = cnn.convolve("image", "cnn/first", rng.normal(0, 1, (8, 4, 1, 1)))
    ends = [cnn.writer.constant(f"cnn/{end}", np.array(end, np.float32)) for end in (minimum, maximum)]
    clipped = cnn.writer.node("Clip", [first, *ends], "cnn/clipped")
    graph = cnn.finish(cnn.convolve(clipped, "cnn/second", rng.normal(0, 1, (8, 8, 3, 3))), 8)
    ranges = {
        "image": Range(-1, 1),
        "cnn/first": Range(-9, 9),
        "cnn/clipped": Range(minimum, 6),
        "cnn/second": Range(-60, 60),
    }
    written = CpuGraph(graph, ranges, ["cnn/first", "cnn/second"]).write()
    assert ("Clip" not in count_operators(written)) == folded
    image = {"image": rng.uniform(-1, 1, (2, 4, 8, 8)).astype(np.float32)}
    assert rms_error(logits_of(written, image, "int8-cpu"), logits_of(graph, image)) < INT8_ERROR


def constants(network: Lowered) -> set[str]:
    return {tensor.name for tensor in network.graphs["fp32"].graph.initializer}
