import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models.bundles import SPEC, make_graph, make_weights
from support.models.hostile_graphs import WHOLE, sized
from support.models.odd_graphs import varint

from hybrid_edge.runtime.errors import BundleError
from hybrid_edge.runtime.guard.graph_guard import check_graph_bytes, check_graph_file
from hybrid_edge.runtime.guard.graph_shapes import CONTRIBUTED_RULES, RULES
from hybrid_edge.runtime.guard.onnx_file import GraphFaultError, read_graph
from hybrid_edge.runtime.guard.operator_call import IMAGES, Known, OperatorCall

IMAGE = (int(IMAGES), 6, 8, 4)
INT, FLOAT = np.int64, np.float32
Case = tuple[str, Sequence[Any], dict[str, Any], int]


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, INT)


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, FLOAT)


# an operator, its inputs (a shape is a tensor to be computed, an array a constant), its attributes, its outputs
CASES: list[Case] = [
    ("Relu", [IMAGE], {}, 1),
    ("Softmax", [(7, 9)], {"axis": 1}, 1),
    ("LayerNormalization", [IMAGE, zeros(4)], {}, 1),
    ("Add", [IMAGE, zeros(8, 1)], {}, 1),
    ("Mul", [(7, 1, 3), (7, 5, 1)], {}, 1),
    ("Where", [np.ones((6, 1, 1), np.bool_), IMAGE, zeros(4)], {}, 1),
    ("Conv", [IMAGE, zeros(5, 6, 3, 3)], {}, 1),
    ("Conv", [IMAGE, zeros(6, 1, 3, 3)], {"group": 6, "pads": [1, 0, 2, 1], "strides": [2, 1]}, 1),
    ("Conv", [IMAGE, zeros(5, 6, 3, 2)], {"dilations": [2, 1], "auto_pad": "VALID"}, 1),
    ("Conv", [IMAGE, zeros(5, 6, 3, 3)], {"strides": [2, 3], "auto_pad": "SAME_UPPER"}, 1),
    ("ConvTranspose", [IMAGE, zeros(6, 5, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 0, 0]}, 1),
    ("ConvTranspose", [IMAGE, zeros(6, 2, 3, 3)], {"group": 2, "strides": [2, 2], "output_padding": [1, 1]}, 1),
    ("ConvTranspose", [IMAGE, zeros(6, 5, 3, 3)], {"dilations": [2, 1]}, 1),
    ("MaxPool", [IMAGE], {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 0, 1]}, 1),
    ("MaxPool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 1),
    ("AveragePool", [IMAGE], {"kernel_shape": [2, 2]}, 1),
    ("GlobalAveragePool", [IMAGE], {}, 1),
    ("MatMul", [(7, 3, 5), zeros(5, 2)], {}, 1),
    ("MatMul", [(7, 5), zeros(5)], {}, 1),
    ("MatMul", [(7, 1, 3, 5), (2, 5, 4)], {}, 1),
    ("Gemm", [(7, 5), zeros(4, 5), zeros(4)], {"transB": 1}, 1),
    ("Gemm", [(5, 7), zeros(5, 4)], {"transA": 1}, 1),
    ("Einsum", [(7, 3, 5), (5, 2)], {"equation": "nij, jk -> nik"}, 1),
    ("LSTM", [(3, 7, 5), zeros(1, 16, 5), zeros(1, 16, 4)], {"hidden_size": 4}, 3),
    ("LSTM", [(3, 7, 5), zeros(2, 16, 5), zeros(2, 16, 4)], {"hidden_size": 4, "direction": "bidirectional"}, 3),
    ("GRU", [(3, 7, 5), zeros(1, 12, 5), zeros(1, 12, 4)], {"hidden_size": 4}, 2),
    ("ReduceMean", [IMAGE], {"axes": [1, -2]}, 1),
    ("ReduceMean", [IMAGE], {"axes": [2], "keepdims": 0}, 1),
    ("ReduceSum", [IMAGE, ints(1, 2)], {"keepdims": 0}, 1),
    ("ReduceMax", [IMAGE], {}, 1),
    ("Reshape", [IMAGE, ints(0, -1)], {}, 1),
    ("Reshape", [IMAGE, ints(-1, 4, 2)], {}, 1),
    ("Flatten", [IMAGE], {"axis": 2}, 1),
    ("Flatten", [IMAGE], {"axis": -1}, 1),
    ("Transpose", [IMAGE], {"perm": [0, 3, 1, 2]}, 1),
    ("Transpose", [IMAGE], {}, 1),
    ("Squeeze", [(7, 1, 3, 1), ints(1, -1)], {}, 1),
    ("Unsqueeze", [(7, 3), ints(0, -1)], {}, 1),
    ("Concat", [(7, 3), (7, 4), (7, 5)], {"axis": 1}, 1),
    ("Split", [(7, 9)], {"axis": 1}, 3),
    ("Split", [(7, 9), ints(2, 7)], {"axis": -1}, 2),
    ("Split", [(7, 784), ints(*[1] * 784)], {"axis": 1}, 784),
    ("Slice", [IMAGE, ints(1, 7), ints(5, -9), ints(1, 2), ints(2, -1)], {}, 1),
    ("Slice", [IMAGE, ints(0), ints(2**31), ints(3)], {}, 1),
    ("Gather", [IMAGE, ints(1, 0, 1)], {"axis": 2}, 1),
    ("Gather", [IMAGE, np.array(1)], {"axis": 3}, 1),
    ("Expand", [(7, 1, 3), ints(7, 5, 1)], {}, 1),
    ("Tile", [(7, 3), ints(1, 4)], {}, 1),
    ("Pad", [IMAGE, ints(0, 1, 2, 0, 0, 3, -1, 0)], {}, 1),
    ("Resize", [IMAGE, zeros(0), np.array([1, 2, 1.5, 1], FLOAT)], {}, 1),
    ("Resize", [IMAGE, zeros(0), zeros(0), ints(7, 12, 8, 4)], {}, 1),
    ("DepthToSpace", [(7, 8, 3, 5)], {"blocksize": 2}, 1),
    ("SpaceToDepth", [(7, 2, 4, 6)], {"blocksize": 2}, 1),
    ("Shape", [IMAGE], {"start": 1}, 1),
    ("ConstantOfShape", [ints(2, 3)], {}, 1),
    ("Range", [np.array(2), np.array(9), np.array(3)], {}, 1),
    ("DynamicQuantizeLinear", [IMAGE], {}, 3),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{number} {case[0]}" for number, case in enumerate(CASES)])
def test_a_tensor_has_the_shape_that_onnx_infers(case: Case) -> None:
    operator, inputs, attributes, outputs = case
    names = [f"i{number}" for number in range(len(inputs))]
    results = [f"o{number}" for number in range(outputs)]
    pairs = list(zip(names, inputs, strict=True))
    constants = [numpy_helper.from_array(item, name) for name, item in pairs if is_array(item)]
    taken = [helper.make_tensor_value_info(name, TensorProto.FLOAT, item) for name, item in pairs if not is_array(item)]
    node = helper.make_node(operator, names, results, **attributes)
    given = [helper.make_empty_tensor_value_info(name) for name in results]
    graph = helper.make_graph([node], "one", taken, given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    expected = [tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim) for item in inferred.graph.output]

    record = read_graph(model.SerializeToString())
    weights = {weight.name: Known(weight.shape, weight.values) for weight in record.weights}
    shapes = {name.encode(): item for name, item in pairs}
    call = OperatorCall(record.operations[0], [weights.get(name) or Known(shapes[name]) for name in shapes])
    found = RULES[operator](call)
    assert [item.shape for item in (found if isinstance(found, list) else [found])][:outputs] == expected


BLOCKED = {"K": 200, "N": 48, "bits": 8, "block_size": 128}


def test_a_product_in_blocks_has_as_many_columns_as_its_weight_has_rows() -> None:
    call = product_in_blocks_call((7, 3, 200), (48, 2, 128), (48, 2), BLOCKED)
    assert CONTRIBUTED_RULES["MatMulNBits"](call).shape == (7, 3, 48)
    assert call.work == 7 * 3 * 200 * 48


@pytest.mark.parametrize(
    ("changed", "shapes"),
    [
        ({}, ((7, 199), (48, 2, 128), (48, 2))),
        ({}, ((7, 200), (48, 2, 32), (48, 2))),
        ({}, ((7, 200), (47, 2, 128), (48, 2))),
        ({}, ((7, 200), (48, 2, 128), (48, 1))),
        ({"bits": 4}, ((7, 200), (48, 2, 64), (48, 2))),
        ({"block_size": 100}, ((7, 200), (48, 2, 100), (48, 2))),
        ({"block_size": 0}, ((7, 200), (48, 2, 128), (48, 2))),
        ({"K": -1}, ((7, 200), (48, 2, 128), (48, 2))),
        ({"N": 2**40}, ((7, 200), (48, 2, 128), (48, 2))),
        ({}, ((7, 200), (48, 2, 128), (48, 2), (48, 1))),
    ],
)
def test_a_product_in_blocks_whose_weight_does_not_fit_its_sizes_is_refused(
    changed: dict[str, int], shapes: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(GraphFaultError, match="a product"):
        CONTRIBUTED_RULES["MatMulNBits"](product_in_blocks_call(*shapes, {**BLOCKED, **changed}))


def product_in_blocks_call(*shapes: Any) -> OperatorCall:
    names = [f"i{number}" for number in range(len(shapes) - 1)]
    node = helper.make_node("MatMulNBits", names, ["o"], domain="com.microsoft", **shapes[-1])
    record = read_graph(helper.make_model(helper.make_graph([node], "one", [], [], [])).SerializeToString())
    return OperatorCall(record.operations[0], [Known(shape) for shape in shapes[:-1]])


def is_array(item: Any) -> bool:
    return isinstance(item, np.ndarray)


def test_every_operator_that_has_a_rule_is_one_of_onnx() -> None:
    known = {item.name for item in onnx.defs.get_all_schemas() if item.domain == ""}
    assert set(RULES) <= known
    assert not set(CONTRIBUTED_RULES) & known


@pytest.mark.parametrize("branches", ["hybrid", "cnn", "rnn"])
def test_a_graph_as_it_is_written_passes(branches: str) -> None:
    spec = SPEC.replace(branches=branches)
    check_graph_bytes(make_graph(spec, make_weights(spec)), spec)


def test_a_graph_for_another_spec_is_refused() -> None:
    with pytest.raises(GraphFaultError, match=r"inputs .*sequence.* in place of image"):
        check_graph_bytes(WHOLE, SPEC.replace(branches="cnn"))
    with pytest.raises(GraphFaultError, match="a product of"):
        check_graph_bytes(WHOLE, SPEC.replace(image_size=24))


def test_what_a_tensor_may_have_grows_with_the_image() -> None:
    """Convolutions of large images have large results."""
    data = sized("ConstantOfShape", [100 * 2**20])
    model = onnx.load_from_string(data)
    del model.graph.node[1:], model.graph.output[:]  # what needs the small image
    check_graph_bytes(model.SerializeToString(), SPEC.model_copy(update={"image_size": 1024}))
    with pytest.raises(GraphFaultError, match="more values than graphs of such images have"):
        check_graph_bytes(data, SPEC)


def test_weights_of_400_mb_are_passed_over_and_not_loaded(tmp_path: Path) -> None:
    size = 4 * 10**8
    start = b"\x08" + varint(size // 4) + b"\x10\x01\x42\x01w\x4a" + varint(size)
    graph = b"".join(b"\x5a" + varint(len(item)) + item for item in (b"\x0a\x05image", b"\x0a\x08sequence"))
    graph += b"\x2a" + varint(len(start) + size) + start
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.write(b"\x3a" + varint(len(graph) + size) + graph)
        file.seek(size - 1, 1)
        file.write(b"\0")
    tracemalloc.start()
    check_graph_file(path, SPEC)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_refusal_names_the_file_what_was_found_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(WHOLE[:50])
    with pytest.raises(
        BundleError, match=r"x\.onnx: expected a graph that hybrid-export wrote, found .*; take no bundle"
    ):
        check_graph_file(tmp_path / "x.onnx", SPEC)
