"""What TensorRT-RTX, which needs no GPU, makes of the graphs; sizes of digits, so that a parse takes milliseconds."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.gpu.network_summary import NetworkSummary, inspect_graph, layers_of, makers_of
from support.models.lowered import VARIANTS, Source

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.inspection import count_operators, operations
from hybrid_edge.runtime.engines.library import Library, find_library
from hybrid_edge.runtime.errors import EngineError

FORMS = ("lstm", "unrolled")
RECURRENT_PRODUCT = r"rnn/[^/]+/(product|step_\d+/recurrent)"
ON_TENSORRT = tuple(variant for variant in VARIANTS if variant != "int8-cpu")


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'hybrid-edge[rtx]'")
    return find_library("rtx")


@pytest.mark.parametrize("variant", ON_TENSORRT)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", ["digits_source", "small_source"])
def test_it_parses_with_its_loops_its_types_and_its_quantized_products(
    size: str, form: str, variant: str, rtx: Library, request: pytest.FixtureRequest
) -> None:
    source: Source = request.getfixturevalue(size)
    model = source.lower(variant, form)
    network = inspect_graph(serialize(model), source.spec, rtx)
    assert network.loops == count_operators(model).get("LSTM", 0) == (source.spec.rnn_layers if form == "lstm" else 0)
    assert len(network.convolutions) == 3
    assert {item.dtype for item in (*network.inputs, *network.outputs)} == {"FLOAT"}
    assert {item.name: item.shape[0] for item in network.inputs} == {"image": -1, "sequence": -1}
    integers = {name for name, precision in operations(model).items() if precision == "INT8"}
    assert quantized(network) == integers
    assert bool(integers) == (variant == "int8-tensorrt")


def test_a_layer_given_back_is_not_quantized_in_the_network(small_source: Source, rtx: Library) -> None:
    wider = ["rnn/lstm_1", next(node.name for node in small_source.forms["lstm"].graph.node if node.op_type == "Conv")]
    model = small_source.lower("int8-tensorrt", "unrolled", wider)
    network = inspect_graph(serialize(model), small_source.spec, rtx)
    found = quantized(network)
    assert found == {name for name, precision in operations(model).items() if precision == "INT8"}
    assert not any(name == wider[1] or name.startswith("rnn/lstm_1/") for name in found)
    assert "rnn/lstm_2/step_27/recurrent" in found


@pytest.mark.parametrize("variant", ["fp16", "int8-tensorrt"])
def test_an_lstm_starts_from_the_graphs_states_in_its_type(variant: str, small_source: Source, rtx: Library) -> None:
    """Whatever a version of the parser makes by itself: up to 10.6 FP32, which strong typing refuses beside FP16."""
    with parsed(small_source.lower(variant, "lstm"), rtx) as network:
        states = [layer.get_input(0) for layer in layers_of(network) if layer.type.name == "RECURRENCE"]
        assert [state.name for state in states] == [f"rnn/lstm_{number}/initial" for number in (1, 1, 2, 2)]
        assert {state.dtype.name for state in states} == {"HALF"}


def test_other_cells_start_from_the_graphs_states_in_fp16(cell_source: Source, rtx: Library) -> None:
    with parsed(cell_source.lower("fp16", "lstm"), rtx) as network:
        states = [layer.get_input(0) for layer in layers_of(network) if layer.type.name == "RECURRENCE"]
        cell, each = cell_source.spec.cell, 1 if cell_source.spec.cell == "gru" else 2  # h, or h and c
        assert [state.name for state in states] == [
            f"rnn/{cell}_{number}/initial" for number in (1, 2) for _ in range(each)
        ]
        assert {state.dtype.name for state in states} == {"HALF"}


def test_fp32_states_beside_fp16_weights_are_refused_by_strong_typing(small_source: Source, rtx: Library) -> None:
    model = small_source.lower("fp16", "lstm")
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "rnn/lstm_2/zero:fp16")
    zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero).astype(np.float32), zero.name))
    with pytest.raises(EngineError, match="must have same input types"):
        inspect_graph(serialize(model), small_source.spec, rtx)


@pytest.mark.parametrize("size", ["digits_source", "small_source"])
def test_nothing_stands_between_an_unrolled_lstms_dequantized_inputs_and_its_products(
    size: str, rtx: Library, request: pytest.FixtureRequest
) -> None:
    check_products(request.getfixturevalue(size), rtx)


def test_nor_between_those_of_other_cells(cell_source: Source, rtx: Library) -> None:
    check_products(cell_source, rtx)


def check_products(source: Source, rtx: Library) -> None:
    with parsed(source.lower("int8-tensorrt", "unrolled"), rtx) as network:
        makers = makers_of(network)
        products = [layer for layer in layers_of(network) if re.fullmatch(RECURRENT_PRODUCT, layer.name)]
        directions = 2 if source.spec.cell == "bilstm" else 1
        assert len(products) == directions * source.spec.rnn_layers * source.spec.timesteps
        for layer in products:
            assert layer.type.name == "MATRIX_MULTIPLY"
            assert [makers[layer.get_input(index).name].type.name for index in (0, 1)] == ["DEQUANTIZE"] * 2
            assert makers[makers[layer.get_input(1).name].get_input(0).name].type.name == "CONSTANT"


@contextmanager
def parsed(model: onnx.ModelProto, rtx: Library) -> Iterator[Any]:
    """The INetworkDefinition, while what it belongs to is alive."""
    trt = rtx.module
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(rtx.network_flags)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(serialize(model))
    yield network


def quantized(network: NetworkSummary) -> set[str]:
    """The products with Q/DQ on both inputs."""
    return {product.name for product in network.products if product.quantized}
