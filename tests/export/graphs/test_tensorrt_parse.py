"""What TensorRT-RTX, which needs no GPU, makes of the graphs; sizes of digits, so that a parse takes milliseconds."""

from __future__ import annotations

import pytest
from lowered import VARIANTS, Source

from hybrid_edge.export.graphs.build import serialize
from hybrid_edge.export.graphs.check import count_operators
from hybrid_edge.export.graphs.describe import operations
from hybrid_edge.runtime.engines.build import inspect_graph
from hybrid_edge.runtime.engines.library import Library, find_library
from hybrid_edge.runtime.engines.network import NetworkSummary

FORMS = ("lstm", "unrolled")
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


def quantized(network: NetworkSummary) -> set[str]:
    """The products with Q/DQ on both inputs."""
    return {product.name for product in network.products if product.quantized}
