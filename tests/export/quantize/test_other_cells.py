"""Hybrids with a GRU or with an LSTM in both directions, and layers with other options, in every precision and form."""

from itertools import product

import keras
import numpy as np
import onnx
import pytest
from support.gpu.network_summary import inspect_graph
from support.models.lowered import (
    INT8_ERROR,
    SMALL_RNN,
    VARIANTS,
    Array,
    Source,
    error_of,
    logits_of,
    randomize,
    rms_error,
    source_of,
    statistics_of,
    tensors_of,
)
from support.models.recurrent_layers import LAYERS, SPEC, TIMESTEPS, VALUES, make_layer, written

from hybrid_edge.export.bundle.cost import measure_cost
from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.graph_reading import quantizable, tensor_types
from hybrid_edge.export.convert.inspection import Declaration, check_graph, count_operators, describe, operations
from hybrid_edge.export.gates.hidden_states import with_hidden_states
from hybrid_edge.export.quantize.calibration_graph import bounds, measured_graph
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.engines.build import EngineOptions, build_engine
from hybrid_edge.runtime.engines.library import find_library
from hybrid_edge.runtime.errors import ConversionError
from hybrid_edge.runtime.manifest import RecurrentForm
from hybrid_edge.train.model import build_model

FORMS: tuple[RecurrentForm, ...] = ("lstm", "unrolled")
EVERY = [pytest.param(variant, form, id=f"{variant} {form}") for variant, form in product(VARIANTS, FORMS)]
LARGEST_ERROR = {"fp32": 1e-6, "fp16": 5e-3}
IMAGES = 4


def layers_of(source: Source) -> list[str]:
    """The names under which a model's layers, or each direction of them, have their tensors."""
    ways = ("-forward", "-backward") if source.spec.cell == "bilstm" else ("",)
    return [f"rnn/{source.spec.cell}_{number}{way}" for number in (1, 2) for way in ways]


@pytest.mark.parametrize(("variant", "form"), EVERY)
def test_it_is_what_it_is_declared_to_be_and_near_fp32(cell_source: Source, variant: str, form: RecurrentForm) -> None:
    model = cell_source.lower(variant, form)
    quantized = variant.startswith("int8")
    check_graph(model, cell_source.spec, Declaration(form, quantized, "cpu" if variant == "int8-cpu" else "tensorrt"))
    tensors = tensors_of(cell_source.spec, 8)
    expected = logits_of(cell_source.forms["lstm"], tensors)
    found = logits_of(model, tensors, variant)
    if quantized:
        assert 1e-3 < rms_error(found, expected) <= INT8_ERROR
    else:
        assert error_of(found, expected) <= LARGEST_ERROR[variant]


@pytest.mark.parametrize("variant", ["int8-tensorrt", "int8-cpu"])
def test_a_sequence_beyond_one_is_not_cut_off(variant: str) -> None:
    spec = SMALL_RNN.replace(cell="gru", scaling="torch")
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    randomize(model)
    source, tensors = source_of(model, spec), tensors_of(spec, 8)
    assert np.abs(tensors["sequence"]).max() > 2
    found = logits_of(source.lower(variant, "unrolled"), tensors, variant)
    assert rms_error(found, logits_of(source.forms["lstm"], tensors)) <= INT8_ERROR


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_row_depends_on_its_neighbours(cell_source: Source, variant: str) -> None:
    tensors = tensors_of(cell_source.spec, 8)
    model = cell_source.lower(variant, "unrolled")
    together = logits_of(model, tensors, variant)[2:3]
    alone = logits_of(model, {name: value[2:3] for name, value in tensors.items()}, variant)
    assert error_of(alone, together) <= 1e-5


def test_each_product_of_each_direction_is_in_int8(cell_source: Source) -> None:
    layers = layers_of(cell_source)
    assert [layer for layer in quantizable(cell_source.forms["unrolled"]) if layer.startswith("rnn/")] == layers
    for variant in ("int8-tensorrt", "int8-cpu"):
        precisions = operations(cell_source.lower(variant, "unrolled"))
        for layer in layers:
            own = {precisions[name] for name in precisions if name.startswith(f"{layer}/")}
            assert own == {"INT8"}
            assert f"{layer}/step_27/recurrent" in precisions


def test_what_a_step_makes_is_measured_over_all_steps(cell_source: Source) -> None:
    spec, graph = cell_source.spec, cell_source.forms["unrolled"]
    with TensorSession(serialize(measured_graph(graph))) as session:
        measured = session.run(tensors_of(spec, IMAGES))
    steps, units = spec.timesteps, spec.rnn_units
    gru = {"gates": (steps - 1, 2 * units), "recurrent": (steps - 1, 3 * units), "shifted": (steps - 1, units)}
    gru |= {"reset": (steps, units), "sum": (steps, units), "hidden": (steps, units)}
    lstm = {"gates": (steps - 1, 4 * units), "recurrent": (steps - 1, 4 * units)}
    lstm |= {"cell": (steps - 1, units), "hidden": (steps, units)}
    bounded = bounds(graph)
    for layer in layers_of(cell_source):
        for state, (count, width) in (gru if spec.cell == "gru" else lstm).items():
            assert measured[f"{layer}/{state}"].shape == (count, IMAGES, width)
        assert bounded[f"{layer}/hidden"] == (-1.0, 1.0)
        assert np.abs(measured[f"{layer}/hidden"]).max() <= 1


@pytest.mark.parametrize("form", FORMS)
def test_wide_gates_keep_that_layer_in_fp32_in_either_form(cell_source: Source, form: str) -> None:
    layers = layers_of(cell_source)
    model = cell_source.lower("fp16", form, wide=[f"{layers[0]}/gates"])
    types = tensor_types(model)
    operator = f"rnn/{cell_source.spec.cell}_1/hidden"
    assert types[operator if form == "lstm" else f"{layers[0]}/step_05/gates"] == onnx.TensorProto.FLOAT
    other = operator.replace("_1/", "_2/")
    assert types[other if form == "lstm" else f"{layers[-1]}/step_05/gates"] == onnx.TensorProto.FLOAT16
    tensors = tensors_of(cell_source.spec, 8)
    assert error_of(logits_of(model, tensors, "fp16"), logits_of(cell_source.forms[form], tensors)) <= 5e-3


def leave_states_away(model: onnx.ModelProto, operator: str) -> None:
    del next(node for node in model.graph.node if node.op_type == operator).input[4:]


def test_an_operator_without_states_is_refused(cell_source: Source) -> None:
    model = cell_source.lower("fp16", "lstm")
    operator = "GRU" if cell_source.spec.cell == "gru" else "LSTM"
    leave_states_away(model, operator)
    with pytest.raises(ConversionError, match=r"expected inputs of one type, found .*initial_h none"):
        check_graph(model, cell_source.spec, Declaration("lstm"))


def test_a_description_says_which_operators_there_are(cell_source: Source) -> None:
    operator = "GRU" if cell_source.spec.cell == "gru" else "LSTM"
    assert describe(cell_source.forms["lstm"])[-1] == f"recurrent form: 2 {operator}, 0 Loop, 0 unrolled steps"
    steps = 28 * len(layers_of(cell_source))
    assert describe(cell_source.forms["unrolled"])[-1].endswith(f"{steps} unrolled steps")


@pytest.mark.parametrize(("variant", "form"), EVERY)
def test_it_multiplies_as_often_as_its_architecture_says(cell_source: Source, variant: str, form: str) -> None:
    gates, ways = (3, 1) if cell_source.spec.cell == "gru" else (4, 2)
    layers = [ways * 16 * gates * (28 * inputs + 27 * 16) for inputs in (28, 16 * ways)]
    found = measure_cost(cell_source.lower(variant, form)).recurrent
    assert found is not None
    assert sum(found.macs.values()) == sum(layers) + 16 * ways * 128  # and the projection


@pytest.mark.parametrize("form", FORMS)
def test_a_variant_of_any_precision_gives_its_hidden_states(cell_source: Source, form: str) -> None:
    spec = cell_source.spec
    found = {}
    for variant in VARIANTS:
        model = onnx.ModelProto()
        model.CopyFrom(cell_source.lower(variant, form))
        with TensorSession(serialize(with_hidden_states(model)), simulated=variant in ("fp16", "int8-tensorrt")) as run:
            found[variant] = run.run(tensors_of(spec, 3))["rnn/hidden_states"]
    width = spec.rnn_units * (2 if spec.cell == "bilstm" else 1)
    assert {value.shape for value in found.values()} == {(spec.timesteps, 3, width)}
    for variant, limit in (("fp16", 2e-3), ("int8-tensorrt", 0.05), ("int8-cpu", 0.05)):
        assert np.abs(found[variant] - found["fp32"]).max() <= limit


ON_TENSORRT = [item for item in VARIANTS if item != "int8-cpu"]


@pytest.mark.parametrize("variant", ON_TENSORRT)
@pytest.mark.parametrize("form", FORMS)
def test_tensorrt_rtx_parses_it_with_a_loop_for_each_operator(cell_source: Source, variant: str, form: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'hybrid-edge[rtx]'")
    rtx, model = find_library("rtx"), cell_source.lower(variant, form)
    network = inspect_graph(serialize(model), cell_source.spec, rtx)
    counts = count_operators(model)
    assert network.loops == counts.get("LSTM", 0) + counts.get("GRU", 0) == (2 if form == "lstm" else 0)
    integers = {name for name, precision in operations(model).items() if precision == "INT8"}
    assert {item.name for item in network.products if item.quantized} == integers


def sequences(count: int, seed: int) -> dict[str, Array]:
    return {"sequence": np.random.default_rng(seed).uniform(-1, 1, (count, TIMESTEPS, VALUES)).astype(np.float32)}


OPTIONS = (
    "GRU {'reset_after': False}",
    "GRU {'recurrent_activation': 'hard_sigmoid'}",
    "LSTM sequences=True backwards=True",
    "Bidirectional GRU concat {'return_sequences': True}",
)


@pytest.fixture(scope="module", params=OPTIONS)
def layer_source(request: pytest.FixtureRequest) -> Source:
    """One layer of an adopted model, measured on random sequences."""
    layer = make_layer(LAYERS[request.param])
    forms = {form: written(layer, form) for form in ("lstm", "unrolled")}
    return Source(SPEC, forms, statistics_of(measured_graph(forms["unrolled"]), sequences(64, seed=5)))


@pytest.mark.parametrize(("variant", "form"), EVERY)
def test_a_layer_with_other_options_is_near_fp32(layer_source: Source, variant: str, form: str) -> None:
    tensors = sequences(8, seed=6)
    expected = logits_of(layer_source.forms["lstm"], tensors)
    found = logits_of(layer_source.lower(variant, form), tensors, variant)
    assert rms_error(found, expected) <= {"fp32": 1e-6, "fp16": 2e-3}.get(variant, INT8_ERROR)
    assert (rms_error(found, expected) > 1e-3) == (variant.startswith("int8") and form == "unrolled")


@pytest.mark.parametrize("variant", ON_TENSORRT[1:])
@pytest.mark.parametrize("form", FORMS)
def test_tensorrt_rtx_builds_a_layer_with_other_options(layer_source: Source, variant: str, form: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'hybrid-edge[rtx]'")
    rtx, data = find_library("rtx"), serialize(layer_source.lower(variant, form))
    quantized = [item for item in inspect_graph(data, SPEC, rtx).products if item.quantized]
    assert bool(quantized) == (variant == "int8-tensorrt" and form == "unrolled")
    assert build_engine(data, SPEC, EngineOptions(), rtx, architecture="sm89").engine
