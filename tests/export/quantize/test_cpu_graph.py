from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from support.models.lowered import (
    INT8_ERROR,
    SmallCnn,
    Source,
    constants_of,
    error_of,
    logits_of,
    rms_error,
    statistics_of,
    tensors_of,
)

from hybrid_edge.calib import choose_range
from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.graph_reading import quantizable
from hybrid_edge.export.quantize.calibration_graph import measured_graph
from hybrid_edge.export.quantize.cpu_graph import CpuGraph
from hybrid_edge.runtime.backends.onnxruntime import TensorSession

FORMS = ("lstm", "unrolled")
RNG = np.random.default_rng(0)
Array = npt.NDArray[Any]


def fused(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime really runs."""
    file, options = folder / "optimized.onnx", onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(file), 3
    onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(file).graph.node)


@pytest.mark.parametrize(
    ("size", "convolutions", "pointwise", "dense"),
    # twelve pointwise convolutions go straight into an addition (eight blocks, four shortcuts), one into the pooling
    [("digits_source", 3, 0, 1), ("reduced_source", 61, 13, 0)],
)
def test_onnx_runtime_fuses_every_convolution_and_step(
    size: str, convolutions: int, pointwise: int, dense: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Source = request.getfixturevalue(size)
    assert sum(node.op_type == "Conv" for node in source.forms["unrolled"].graph.node) == convolutions + pointwise
    operators = fused(source.lower("int8-cpu", "unrolled"), tmp_path)
    # the first step of each layer has no product, and each layer projects its input in one
    products = source.spec.rnn_layers * source.spec.timesteps
    assert operators["QLinearConv"] == convolutions
    assert operators["MatMulIntegerToFloat"] == products + pointwise + dense
    assert not operators.keys() & {"Conv", "MatMul", "FusedConv", "DynamicQuantizeLinear", "ConvInteger"}


def test_in_lstm_form_the_cnn_is_fused_and_the_lstm_stays_in_fp32(digits_source: Source, tmp_path: Path) -> None:
    operators = fused(digits_source.lower("int8-cpu", "lstm"), tmp_path)
    assert (operators["QLinearConv"], operators["LSTM"]) == (3, 1)
    model = digits_source.lower("int8-cpu", "lstm")
    assert constants_of(model)["rnn/lstm_1/R"].dtype == np.float32


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", ["digits_source", "small_source"])
def test_it_is_near_fp32(size: str, form: str, request: pytest.FixtureRequest) -> None:
    source: Source = request.getfixturevalue(size)
    tensors = tensors_of(source.spec, 8)
    expected = logits_of(source.forms[form], tensors)
    assert 1e-3 < rms_error(logits_of(source.lower("int8-cpu", form), tensors, "int8-cpu"), expected) <= INT8_ERROR


def test_recurrent_weights_in_blocks_are_near_fp32_and_keep_rows_apart(digits_source: Source) -> None:
    source = digits_source.forms["unrolled"]
    layers = [layer for layer in quantizable(source) if layer.startswith("rnn/")]
    model = CpuGraph(source, {}, (), in_blocks=layers).write()
    # the first step of a layer has no product, and what projects its input stays in float
    steps = digits_source.spec.rnn_layers * (digits_source.spec.timesteps - 1)
    assert Counter(node.op_type for node in model.graph.node if node.domain) == {"MatMulNBits": steps}
    tensors = tensors_of(digits_source.spec, 8)
    found = logits_of(model, tensors, "int8-cpu")
    assert 1e-4 < rms_error(found, logits_of(source, tensors)) <= 0.02
    loud = {name: np.concatenate([values[:1], np.sign(values[1:])]) for name, values in tensors.items()}
    np.testing.assert_allclose(logits_of(model, loud, "int8-cpu")[0], found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_neighbouring_weights_fit_into_16_bits_together_and_use_all_of_them(small_source: Source, form: str) -> None:
    """In the order in which ONNX Runtime adds them up on x86 without VNNI, times any two bytes."""
    constants = constants_of(small_source.lower("int8-cpu", form))
    weights = [values.astype(int) for values in constants.values() if values.dtype == np.int8 and values.ndim > 1]
    assert len(weights) == len(quantizable(small_source.forms[form])) + (2 if form == "unrolled" else 0)
    for weight in weights:
        channels_last = weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight.T
        rows = channels_last.reshape(len(channels_last), -1)
        rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
        largest = np.maximum(np.abs(rows).max(axis=1) + 1, np.abs(rows[:, ::2] + rows[:, 1::2]).max(axis=1))
        assert 255 * int(np.abs(rows[:, ::2] + rows[:, 1::2]).max()) < 2**15
        assert set(largest) <= {127, 128}  # as much as rounding lets a channel's largest weight or pair fill


@pytest.mark.parametrize("form", FORMS)
def test_versions_and_domains_are_those_of_onnx_runtime(small_source: Source, form: str) -> None:
    model = small_source.lower("int8-cpu", form)
    assert {item.domain: item.version for item in model.opset_import} == {"": 17, "com.microsoft": 1}
    assert model.ir_version == 8
    nothing = small_source.lower("int8-cpu", form, wider=list(quantizable(small_source.forms[form])))
    assert {item.domain for item in nothing.opset_import} == {""}
    tensors = tensors_of(small_source.spec, 3)
    np.testing.assert_array_equal(logits_of(nothing, tensors), logits_of(small_source.forms[form], tensors))


def test_a_layer_given_back_stays_in_float_between_quantized_ones(small_source: Source, tmp_path: Path) -> None:
    tensors = tensors_of(small_source.spec, 8)
    expected = logits_of(small_source.forms["unrolled"], tensors)
    layers = list(quantizable(small_source.forms["unrolled"]))
    assert len(layers) == 6  # three convolutions, a dense layer, two LSTMs
    for layer in layers:
        model = small_source.lower("int8-cpu", "unrolled", [layer])
        operators = fused(model, tmp_path)
        assert operators["QLinearConv"] == (2 if layer in layers[:3] else 3)
        assert error_of(logits_of(model, tensors, "int8-cpu"), expected) <= 0.1


class Small(SmallCnn):
    """A CNN, also in INT8."""

    def __init__(self) -> None:
        super().__init__((3, 6, 6), padded=True)

    def quantize(self, output: str, channels: int) -> tuple[onnx.ModelProto, Array, Array]:
        """The INT8 graph, and the logits of some images by it and by the FP32 graph."""
        source, tensors = self.finish(output, channels), images()
        statistics = statistics_of(measured_graph(source), tensors)
        ranges = {name: choose_range(item, "minmax", symmetric=False) for name, item in statistics.items()}
        quantized = CpuGraph(source, ranges, quantizable(source)).write()
        return quantized, logits_of(quantized, tensors), logits_of(source, tensors)


def images() -> dict[str, Array]:
    return {"image": RNG.uniform(-1, 1, (32, 3, 6, 6)).astype(np.float32)}


def weight(outputs: int, inputs: int = 3, size: int = 3) -> Array:
    return RNG.normal(0, 0.3, (outputs, inputs, size, size))


def test_channels_without_weights_and_with_a_large_bias_keep_their_value() -> None:
    small, kernel = Small(), weight(4)
    kernel[0] = 0  # a dead filter: its scale, and its bias in units of it, must not go to zero and to infinity
    kernel[1] *= 1e-9
    small.convolve("image", "cnn/a", kernel, np.array([50, -40, 0.1, 0]))
    _, found, expected = small.quantize("cnn/a", 4)
    np.testing.assert_allclose(expected[:, :2], np.array([[50, -40]] * 32), rtol=1e-6)
    np.testing.assert_allclose(found, expected, atol=0.51 * 90 / 255)


@pytest.mark.parametrize("between", ["a ReLU", "a ReLU and a shortcut", "a leaky ReLU", "a sum with itself"])
def test_what_stands_between_two_convolutions_stops_neither_from_being_fused(between: str, tmp_path: Path) -> None:
    small = Small()
    value = first = small.convolve("image", "cnn/a", weight(8), RNG.normal(size=8))
    if "a ReLU" in between:
        value = small.writer.node("Relu", [first], "cnn/relu")
    if "leaky" in between:
        value = small.writer.node("LeakyRelu", [first], "cnn/leaky", alpha=0.3)
    if "shortcut" in between or "sum" in between:
        value = small.writer.node("Add", [value, first], "cnn/sum")
    second = small.convolve(value, "cnn/b", weight(5, 8), RNG.normal(size=5))
    quantized, found, expected = small.quantize(small.writer.node("Relu", [second], "cnn/last"), 5)
    assert fused(quantized, tmp_path)["QLinearConv"] == 2
    assert error_of(found, expected) <= 0.03


def test_convolutions_that_share_a_constant_have_integers_of_their_own() -> None:
    """tf2onnx gives equal constants once; a bias in integers depends on the scale of what comes in."""
    small = Small()
    small.convolve("image", "cnn/a", weight(3), np.array([0.5, -1, 2]))
    inputs = ["cnn/a", small.writer.constant("cnn/b/w", weight(3).astype(np.float32)), "cnn/a/b"]
    small.writer.node("Conv", inputs, "cnn/b", pads=[1, 1, 1, 1])
    small.writer.node("Conv", ["cnn/b", "cnn/b/w", "cnn/a/b"], "cnn/c", pads=[1, 1, 1, 1])
    quantized, found, expected = small.quantize("cnn/c", 3)
    constants_of(quantized)  # no name twice
    assert error_of(found, expected) <= 0.03


@pytest.mark.parametrize(("size", "as_product"), [(1, True), (3, False)])
def test_a_pointwise_convolution_into_an_addition_gives_floats(size: int, as_product: bool, tmp_path: Path) -> None:
    """What is added stays in the residual stream for good, so its error is not to be one of 8 bits."""
    small = Small()
    first = small.convolve("image", "cnn/a", weight(6), RNG.normal(size=6))
    second = small.convolve(first, "cnn/b", weight(6, 6, size), RNG.normal(size=6))
    third = small.writer.node("Add", [second, first], "cnn/first sum")
    # the same weights and bias once more, as tf2onnx would give them
    pads = [size // 2] * 4
    fourth = small.writer.node("Conv", [third, "cnn/b/w", "cnn/b/b"], "cnn/c", pads=pads)
    quantized, found, expected = small.quantize(small.writer.node("Add", [fourth, third], "cnn/sum"), 6)
    constants_of(quantized)  # no name twice
    operators = fused(quantized, tmp_path)
    assert operators["QLinearConv"] == (1 if as_product else 3)
    assert operators["MatMulIntegerToFloat"] == (2 if as_product else 0)
    for name in ("cnn/b", "cnn/c"):
        takers = {node.op_type for node in quantized.graph.node if name in node.input}
        assert takers == ({"Add"} if as_product else {"QuantizeLinear"})
    assert error_of(found, expected) <= 0.03


def test_a_shortcut_with_strides_and_what_goes_to_the_global_average_give_floats_too(tmp_path: Path) -> None:
    small = Small()
    first = small.convolve("image", "cnn/a", weight(6), RNG.normal(size=6))
    small.convolve(first, "cnn/b", weight(6, 6, 1), RNG.normal(size=6), strides=[2, 2])
    small.writer.node("MaxPool", [first], "cnn/pool", kernel_shape=[2, 2], strides=[2, 2])
    third = small.writer.node("Add", ["cnn/b", "cnn/pool"], "cnn/sum")
    last = small.convolve(third, "cnn/c", weight(5, 6, 1), RNG.normal(size=5))
    quantized, found, expected = small.quantize(small.writer.node("Relu", [last], "cnn/last"), 5)
    operators = fused(quantized, tmp_path)
    assert (operators["QLinearConv"], operators["MatMulIntegerToFloat"]) == (1, 2)
    made = {node.output[0]: node for node in quantized.graph.node}
    assert made["cnn/b"].op_type == made["cnn/c"].op_type == "Transpose"
    assert error_of(found, expected) <= 0.03


def test_a_relu_between_a_sum_and_a_quantization_is_left_to_the_zero_point(tmp_path: Path) -> None:
    """Only where nothing else takes it: a float operator needs the ReLU itself."""
    for taken_twice in (False, True):
        small = Small()
        first = small.convolve("image", "cnn/a", weight(6, 3, 1), RNG.normal(size=6))
        added = small.writer.node("Add", [first, first], "cnn/sum")
        small.writer.node("Relu", [added], "cnn/relu")
        small.convolve("cnn/relu", "cnn/b", weight(6, 6), RNG.normal(size=6))
        last = small.writer.node("Add", ["cnn/b", "cnn/relu" if taken_twice else "cnn/sum"], "cnn/end")
        quantized, found, expected = small.quantize(last, 6)
        assert fused(quantized, tmp_path)["Relu"] == taken_twice
        assert error_of(found, expected) <= 0.03


@pytest.mark.parametrize("size", [1, 3])
def test_a_bias_makes_up_for_what_rounding_takes_from_the_mean(size: int) -> None:
    """With weights of 4 bits, so that there is something to make up for; as a product and as a convolution."""
    small = Small()
    small.writer.node("Sigmoid", ["image"], "cnn/positive")
    kernel = RNG.normal(0, 0.3, (6, 3, size, size))
    small.writer.node("Conv", ["cnn/positive", small.writer.constant("cnn/a/w", kernel.astype(np.float32))], "cnn/a")
    one = small.writer.constant("cnn/one", np.array(1, np.float32))
    source, tensors = small.finish(small.writer.node("Add", ["cnn/a", one], "cnn/sum"), 6), images()
    with TensorSession(serialize(measured_graph(source))) as session:
        found = session.run(tensors)
    statistics = statistics_of(measured_graph(source), tensors)
    means = {"cnn/a": found["cnn/positive"].mean(axis=(0, 2, 3), dtype=np.float64)}
    ranges = {name: choose_range(item, "minmax", symmetric=False) for name, item in statistics.items()}
    plain, corrected = (
        logits_of(CpuGraph(source, ranges, ["cnn/a"], levels=7, means=item).write(), tensors) for item in (None, means)
    )
    assert np.abs(corrected - found["logits"]).mean() < 0.3 * np.abs(plain - found["logits"]).mean()
