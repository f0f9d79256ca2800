import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tf2onnx
from support.models.lowered import randomize
from support.models.standin import with_logits

from hybrid_edge.export.convert import fp32_graph as graph_module
from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.export.convert.inspection import check_graph, count_operators
from hybrid_edge.export.convert.recurrent import Affine
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.errors import ConversionError
from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.model import build_model

LABELS = tuple("abcde")
DIGITS = preset("digits").replace(class_labels=LABELS)
SPECS = {
    "hybrid": DIGITS,
    "cnn alone": DIGITS.replace(branches="cnn"),
    "rnn alone": DIGITS.replace(branches="rnn", rnn_units=64),
    "rnn alone, batch norm folded into the head": DIGITS.replace(branches="rnn", rnn_batch_norm=True),
    "batch norm before the product": DIGITS.replace(rnn_batch_norm=True),
    "projection": DIGITS.replace(rnn_units=24),
    "batch norm folded into the projection": DIGITS.replace(rnn_units=24, rnn_batch_norm=True),
    "concatenation": DIGITS.replace(merge="concatenate", rnn_units=24),
    "batch norm before the concatenation, patches": DIGITS.replace(
        merge="concatenate", rnn_units=24, rnn_batch_norm=True, timesteps=16, sequence_order="patches"
    ),
    "projection before the sum": DIGITS.replace(merge="add", rnn_units=24),
    "batch norm before the sum": DIGITS.replace(merge="add", rnn_batch_norm=True),
    "three LSTMs, other timesteps": DIGITS.replace(rnn_layers=3, rnn_units=16, timesteps=14),
    "rnn on images too small for its backbone": ModelSpec(
        image_size=16, timesteps=8, branches="rnn", rnn_units=8, class_labels=LABELS
    ),
}


@pytest.fixture(scope="module")
def hybrid() -> tuple[onnx.ModelProto, ModelSpec]:
    return GraphBuilder(build_model(DIGITS), DIGITS).build(), DIGITS


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_the_graph_computes_what_keras_computes_without_batch_norm_or_loops(spec: ModelSpec, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    randomize(model)
    graph = GraphBuilder(model, spec).build()
    check_graph(graph, spec)
    counts = count_operators(graph)
    assert counts.get("LSTM", 0) == (spec.rnn_layers if spec.uses_rnn else 0)
    assert not counts.keys() & {"Loop", "Scan", "If", "BatchNormalization"}
    file = tmp_path / "model.onnx"
    file.write_bytes(serialize(graph))

    rng = np.random.default_rng(1)
    size = spec.image_size
    tensors = {"image": np.empty((5, size, size, 3), np.float32), **Preprocessor(spec).allocate(5)}
    for row in range(5):
        Preprocessor(spec).fill(rng.integers(0, 256, (40, 30, 3), np.uint8), tensors, row)
    logits, probabilities = (np.asarray(value) for value in with_logits(model)(tensors["image"]))
    with OnnxRuntimeCpu(file, spec) as backend:
        outputs = backend.run({name: tensors[name] for name in spec.inputs})

    assert np.abs(logits).max() > 0.1
    np.testing.assert_allclose(outputs.logits, logits, rtol=0, atol=2e-5 * np.abs(logits).max())
    np.testing.assert_allclose(outputs.probabilities, probabilities, rtol=0, atol=1e-4)


def test_the_interface_is_the_declared_one(hybrid: tuple[onnx.ModelProto, ModelSpec]) -> None:
    graph = hybrid[0].graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "image": ["N", 28, 28, 3],
        "sequence": ["N", 28, 28],
        "logits": ["N", 5],
        "probabilities": ["N", 5],
    }
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    assert [(item.domain, item.version) for item in hybrid[0].opset_import] == [("", 17)]
    assert hybrid[0].ir_version == 8


def test_exporting_twice_gives_the_same_bytes() -> None:
    model = build_model(DIGITS)
    assert serialize(GraphBuilder(model, DIGITS).build()) == serialize(GraphBuilder(model, DIGITS).build())


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import keras\n"
        "from hybrid_edge.train.model import build_model; from hybrid_edge.runtime.spec import ModelSpec\n"
        "from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize\n"
        "spec = ModelSpec.from_json(sys.argv[1]); keras.utils.set_random_seed(3)\n"
        "Path(sys.argv[2]).write_bytes(serialize(GraphBuilder(build_model(spec), spec).build()))\n"
    )
    file = tmp_path / "other.onnx"
    subprocess.run([sys.executable, "-c", script, DIGITS.model_dump_json(), str(file)], check=True, capture_output=True)
    keras.utils.clear_session()  # layers are numbered from the start, as in a new process
    keras.utils.set_random_seed(3)
    assert serialize(GraphBuilder(build_model(DIGITS), DIGITS).build()) == file.read_bytes()


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "images"


def add_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("product", onnx.TensorProto.FLOAT, ["N", 128]))


def fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def make_double(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def drop_lstm(model: onnx.ModelProto) -> None:
    model.graph.node.remove(next(node for node in model.graph.node if node.op_type == "LSTM"))


def drop_convolution(model: onnx.ModelProto) -> None:
    model.graph.node.remove(next(node for node in model.graph.node if node.op_type == "Conv"))


def add_batch_norm(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("BatchNormalization", ["product"] * 5, ["normed"]))


def add_foreign(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("FusedGelu", ["product"], ["x"], domain="com.microsoft"))


def raise_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def raise_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 10


def cut_head(model: onnx.ModelProto) -> None:
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "logits/kernel")
    kernel.dims[1] = 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rename_input, "inputs: expected"),
        (add_output, "outputs: expected"),
        (fix_batch, "inputs: expected"),
        (make_double, "logits: expected FLOAT, found DOUBLE"),
        (drop_lstm, "LSTM: expected 1, found 0"),
        (drop_convolution, "Conv: expected 3, found 2"),
        (add_batch_norm, "BatchNormalization: expected 0, found 1"),
        (add_foreign, "foreign domains: com.microsoft.FusedGelu"),
        (raise_opset, "operator sets: expected {'': 17}, found {'': 21}"),
        (raise_ir, "IR version: expected 8, found 10"),
        (cut_head, "onnx's checker refused"),
    ],
)
def test_a_graph_other_than_declared_is_refused_by_name(
    damage: Callable[[onnx.ModelProto], None], message: str, hybrid: tuple[onnx.ModelProto, ModelSpec]
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(hybrid[0])
    damage(model)
    with pytest.raises(ConversionError, match=message):
        check_graph(model, hybrid[1])


def test_a_model_over_two_gigabytes_is_refused_before_it_is_converted() -> None:
    class Huge:
        def count_params(self) -> int:
            return 600_000_000

    with pytest.raises(ConversionError, match="fit into one ONNX file"):
        GraphBuilder(Huge(), DIGITS).build()


def test_a_graph_over_the_limit_is_refused_when_it_is_written(
    hybrid: tuple[onnx.ModelProto, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_module, "MAX_BYTES", 1000)
    with pytest.raises(ConversionError, match="at most 1000 bytes"):
        serialize(hybrid[0])


def test_folding_an_affine_step_into_a_dense_layer_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    affine = Affine(rng.normal(size=6), rng.normal(size=6))
    kernel, bias, value = rng.normal(size=(6, 3)), rng.normal(size=3), rng.normal(size=(4, 6))
    folded_kernel, folded_bias = affine.fold(kernel, bias)
    np.testing.assert_allclose(
        value @ folded_kernel + folded_bias, (value * affine.scale + affine.shift) @ kernel + bias, atol=1e-12
    )


SPEC = preset("digits", "cnn").replace(class_labels=("a", "b"))


def test_a_failure_of_tf2onnx_is_a_conversion_error_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyError("CudnnRNNV3")

    monkeypatch.setattr(tf2onnx.convert, "from_function", fail)
    with pytest.raises(ConversionError, match=r"could not convert the network.*CudnnRNNV3"):
        GraphBuilder(build_model(SPEC), SPEC).build()


def test_a_captured_constant_that_became_an_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tf2onnx.convert.from_function

    def with_extra_input(*arguments: Any, **options: Any) -> Any:
        model, storage = original(*arguments, **options)
        model.graph.input.add().name = "captured"
        return model, storage

    monkeypatch.setattr(tf2onnx.convert, "from_function", with_extra_input)
    with pytest.raises(ConversionError, match="image, captured"):
        GraphBuilder(build_model(SPEC), SPEC).build()


def test_tf2onnx_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF2ONNX_CATCH_ERRORS", "TRUE")
    level = logging.getLogger("tf2onnx").level
    GraphBuilder(build_model(SPEC), SPEC).build()
    assert os.environ["TF2ONNX_CATCH_ERRORS"] == "TRUE"
    assert logging.getLogger("tf2onnx").level == level
