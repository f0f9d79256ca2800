"""Graphs that no engine should see: each opens a file, runs foreign code, or never ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from support.models.bundles import SPEC, make_graph, make_weights

Model = onnx.ModelProto
Change = Callable[[Model], Any]

WHOLE = make_graph(SPEC, make_weights(SPEC))
HUGE = 2**31
INTS = np.int64
# what ONNX and ONNX Runtime know and no export writes; a size, a file, a text or foreign code comes with each
UNKNOWN = [
    "Bernoulli",
    "Compress",
    "Det",
    "GridSample",
    "Hardmax",
    "If",
    "ImageDecoder",
    "IsInf",
    "IsNaN",
    "Loop",
    "MaxRoiPool",
    "MaxUnpool",
    "Mod",
    "Multinomial",
    "NegativeLogLikelihoodLoss",
    "NonMaxSuppression",
    "NonZero",
    "OneHot",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "RegexFullMatch",
    "ReverseSequence",
    "RoiAlign",
    "ScatterElements",
    "ScatterND",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "Size",
    "SoftmaxCrossEntropyLoss",
    "SplitToSequence",
    "STFT",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
    "TopK",
    "Unique",
    "Upsample",
    "HammingWindow",
    "BlackmanWindow",
    "MelWeightMatrix",
    "DFT",
    "CenterCropPad",
    "Col2Im",
    "AffineGrid",
    "Attention",
    "Scan",
]
CONTRIBUTED = [
    "EPContext",
    "Attention",
    "BeamSearch",
    "CropAndResize",
    "DecoderMaskedSelfAttention",
    "ExpandDims",
    "FusedConv",
    "FusedGelu",
    "GreedySearch",
    "Inverse",
    "MatMulNBits",
    "MaxpoolWithMask",
    "MoE",
    "MurmurHash3",
    "NhwcMaxPool",
    "PythonOp",
    "QAttention",
    "Range",
    "Rfft",
    "Sampling",
    "SparseAttention",
    "Tokenizer",
    "Trilu",
    "Unique",
    "WhisperBeamSearch",
    "WordConvEmbedding",
    "Conv",
    "Reshape",
]


def changed(*changes: Change) -> bytes:
    """The whole graph, changed."""
    model = onnx.load_from_string(WHOLE)
    for change in changes:
        change(model)
    return bytes(model.SerializeToString())


def weight(name: str, values: Any, kind: Any = INTS) -> Change:
    return lambda model: model.graph.initializer.append(numpy_helper.from_array(np.array(values, kind), name))


def node(operator: str, *inputs: str, outputs: Sequence[str] = ("x",), **attributes: Any) -> Change:
    def change(model: Model) -> None:
        model.graph.node.insert(0, helper.make_node(operator, inputs, outputs, **attributes))

    return change


def nodes(*made: tuple[Any, ...], **attributes: Any) -> Change:
    """Nodes in a row: each an operator, its inputs and its output."""

    def change(model: Model) -> None:
        for place, (operator, inputs, output) in enumerate(made):
            model.graph.node.insert(place, helper.make_node(operator, inputs, [output], **attributes))

    return change


def sized(operator: str, sizes: Sequence[int], *before: str, **attributes: Any) -> bytes:
    """An operator whose last input says sizes."""
    return changed(weight("sizes", sizes), node(operator, *before, "sizes", **attributes))


def first(model: Model) -> onnx.TensorProto:
    return model.graph.initializer[0]


def outside(tensor: onnx.TensorProto, location: str = "x.bin", **entries: str) -> None:
    """The tensor's bytes lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)


def scan(*, inputs: Sequence[str] = ("image",), body: onnx.GraphProto | None = None, **attributes: Any) -> Change:
    """A Scan; its body, unless another is given, squares what it takes."""
    squares = helper.make_graph(
        [helper.make_node("Mul", ["one", "one"], ["square"])],
        "body",
        [helper.make_tensor_value_info("one", TensorProto.FLOAT, [12, 12, 3])],
        [helper.make_tensor_value_info("square", TensorProto.FLOAT, None)],
    )
    return node("Scan", *inputs, body=body or squares, **{"num_scan_inputs": 1, **attributes})


def body(made: onnx.NodeProto, *weights: onnx.TensorProto) -> onnx.GraphProto:
    taken = [helper.make_tensor_value_info("one", TensorProto.FLOAT, [12, 12, 3])]
    given = [helper.make_tensor_value_info(made.output[0], TensorProto.FLOAT, None)]
    return helper.make_graph([made], "body", taken, given, weights)


def external() -> Iterator[tuple[str, bytes]]:
    """Weights that lie elsewhere."""
    places = {
        "beside": "x.bin",
        "above": "../../secret",
        "absolute": "/etc/passwd",
        "a device": "/dev/zero",
        "an address in memory": "*/_ORT_MEM_ADDR_/*",
        "no name": "",
        "a long name": "x" * 10**6,
        "a byte of zero": "x\0.bin",
        "an address": "http://127.0.0.1/x",
    }
    for name, place in places.items():
        yield f"external data: {name}", changed(lambda m, place=place: outside(first(m), place))
    yield "external data: an offset", changed(lambda m: outside(first(m), offset="-1", length=str(2**62)))
    yield "external data: said, without an entry", changed(lambda m: setattr(first(m), "data_location", 1))
    yield "external data: entries, not said", changed(lambda m: first(m).external_data.add(key="location", value="x"))
    yield "external data: an unknown place", changed(lambda m: setattr(first(m), "data_location", 1), add_location(2))

    def constant(operator: str) -> Change:
        tensor = numpy_helper.from_array(np.zeros(4, np.float32), "t")
        outside(tensor)
        return node(operator, *(["image"] if operator == "ConstantOfShape" else []), value=tensor)

    yield "external data: a Constant's", changed(constant("Constant"))
    yield "external data: a ConstantOfShape's", changed(constant("ConstantOfShape"))
    inside = numpy_helper.from_array(np.zeros((12, 12, 3), np.float32), "w")
    outside(inside)
    add = helper.make_node("Add", ["one", "w"], ["sum"])
    yield "external data: in a Scan's body", changed(scan(body=body(add, inside)))
    yield "external data: in a list of an attribute", changed(node("Relu", "image", more=[inside]))
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"), numpy_helper.from_array(np.zeros(1, INTS), "i"), [HUGE]
    )
    yield "a sparse weight", changed(lambda m: m.graph.sparse_initializer.append(sparse))
    yield "a sparse constant", changed(node("Constant", sparse_value=sparse))


def add_location(value: int) -> Change:
    def change(model: Model) -> None:
        tensor = first(model)
        data = tensor.SerializeToString() + bytes([0x70, value])
        tensor.ParseFromString(data)

    return change


def foreign() -> Iterator[tuple[str, bytes]]:
    """Operators that no export writes, functions, training, other domains."""
    for operator in UNKNOWN:
        yield f"operator {operator}", changed(node(operator, "image"))
    for operator in CONTRIBUTED:
        yield f"operator com.microsoft {operator}", changed(node(operator, "image", domain="com.microsoft"))
    for domain in (
        "evil",
        "ai.onnx.ml",
        "ai.onnx.training",
        "org.pytorch.aten",
        "com.microsoft.nchwc",
        "x" * 10**5,
        "\x1b[2J",
    ):
        yield f"domain {domain[:30]!r}", changed(node("Relu", "image", domain=domain))
    for operator in ("", "relu", "Relu\0", "Conv\x1b]0;x\x07", "R" * 10**6, "😈"):
        yield f"operator {operator[:9]!r}", changed(node(operator, "image"))
    function = helper.make_function("evil", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [])
    yield "a function", changed(lambda m: m.functions.append(function))
    yield "an overload", changed(node("Relu", "image"), lambda m: setattr(m.graph.node[0], "overload", "x"))
    yield "training", changed(lambda m: m.training_info.add())
    yield "options of ONNX Runtime", changed(lambda m: m.metadata_props.add(key="ort_config", value="{}"))
    yield "a quantization annotation", changed(lambda m: m.graph.quantization_annotation.add())
    loop = helper.make_graph([], "b", [], [helper.make_tensor_value_info("c", TensorProto.BOOL, [])])
    yield "a Loop without end", changed(weight("n", 2**62), node("Loop", "n", "", body=loop))
    yield "an If", changed(node("If", "image", then_branch=loop, else_branch=loop))
    yield "a graph where none belongs", changed(node("Relu", "image", body=loop))
    nested = loop
    for _ in range(15):
        nested = helper.make_graph([helper.make_node("Scan", ["image"], ["c"], body=nested)], "b", [], [])
    yield "graphs in graphs", changed(node("Scan", "image", body=nested, num_scan_inputs=1))


def scans() -> Iterator[tuple[str, bytes]]:
    """Loops that are not the one over the images."""
    other = helper.make_node(
        "Scan", ["one"], ["c"], body=body(helper.make_node("Neg", ["one"], ["n"])), num_scan_inputs=1
    )
    yield "a Scan in a Scan", changed(scan(body=body(other)))
    yield "a Scan over a weight", changed(weight("w", np.zeros((9, 12, 12, 3)), np.float32), scan(inputs=["w"]))
    yield "a Scan with a state", changed(scan(inputs=["image", "image"]))
    yield "a Scan of two", changed(scan(inputs=["image", "image"], num_scan_inputs=2))
    yield "a Scan of none", changed(scan(num_scan_inputs=0))
    yield "a Scan over another axis", changed(scan(scan_input_axes=[1]))
    yield (
        "two Scans",
        changed(
            scan(),
            lambda m: m.graph.node.insert(
                0, helper.make_node("Scan", ["image"], ["y"], num_scan_inputs=1, body=m.graph.node[0].attribute[0].g)
            ),
        ),
    )
    many = helper.make_node("Expand", ["one", "sizes"], ["n"])
    sizes = numpy_helper.from_array(np.array([3000, 12, 12, 300], INTS), "sizes")
    yield "a Scan that makes much", changed(scan(body=body(many, sizes)))
    unknown = helper.make_node("NonZero", ["one"], ["n"])
    yield "a Scan of an unknown operator", changed(scan(body=body(unknown)))
