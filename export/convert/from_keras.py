"""Converts the CNN branch from Keras to ONNX with tf2onnx, which only this file knows.

The recurrent branch never comes here: through tf2onnx the whole model takes minutes and over 23 GB of memory, and a
Keras LSTM comes out as an ``LSTM``, a ``Loop`` or not at all, by circumstances (``recurrent.py`` writes it instead).
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

from ...runtime.errors import ConversionError
from ...runtime.spec import ModelSpec
from ...train.model import KerasModel
from .fixed_shapes import fix_shapes
from .graph_writer import GraphWriter
from .simplify import simplify

PREFIX = "cnn/"
ROWS_RANK, IMAGE_RANK = 2, 4  # (N, F) and (N, H, W, C)


def write_cnn(writer: GraphWriter, cnn: KerasModel, spec: ModelSpec, opset: int) -> str:
    """Convert the CNN, (N, S, S, 3) -> (N, F), into a graph with the input ``image``; return its result's name, (N, F).

    Batch normalization is folded into the convolutions. Where tf2onnx fails, or leaves control flow or an input that
    was not declared, it raises ConversionError.
    """
    (features,) = write_function(
        writer, lambda image: [cnn(image, training=False)], {"image": (None, *spec.image_shape)}, opset
    )
    return features


def write_function(
    writer: GraphWriter,
    function: Callable[..., Sequence[Any]],
    inputs: Mapping[str, Sequence[int | None]],
    opset: int,
) -> list[str]:
    """Convert a TensorFlow function of float32 tensors into a graph; return the names of what it gives, in its order.

    ``inputs`` has the shape of each, by its name, in the function's order. Errors as for ``write_cnn``.
    """
    graph = _convert(function, inputs, opset)
    found = [value.name for value in graph.input]
    if not set(found) <= set(inputs):
        raise ConversionError(
            f"tf2onnx's graph of the network: expected the inputs {', '.join(inputs)}, found {', '.join(found)} (a "
            "captured constant becomes an input)"
        )
    rename = _canonical_names(graph, list(inputs))
    for node in graph.node:
        _rename_node(node, rename)
    for tensor in graph.initializer:
        tensor.name = rename[tensor.name]
    writer.graph.node.extend(graph.node)
    writer.graph.initializer.extend(sorted(graph.initializer, key=lambda tensor: tensor.name))
    names = [rename[value.name] for value in graph.output]
    del graph
    gc.collect()  # tf2onnx's objects refer to each other: 1.6 GB at full size that would otherwise stay for a while
    return names


def _convert(
    function: Callable[..., Sequence[Any]], inputs: Mapping[str, Sequence[int | None]], opset: int
) -> onnx.GraphProto:
    signature = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in inputs.items()]
    try:
        with traceable(), _quiet(), _without_copies(), _with_scalars(), tf.device("/CPU:0"):
            model, _ = tf2onnx.convert.from_function(
                tf.function(function),
                input_signature=signature,
                opset=opset,
                custom_op_handlers={"Erfc": (_write_erfc, [])},
            )
    except Exception as error:
        # tf2onnx and TensorFlow raise anything from KeyError to their own types
        raise ConversionError(f"tf2onnx {tf2onnx.__version__} could not convert the network: {error}") from error
    fix_shapes(model)
    simplify(model)
    graph: onnx.GraphProto = model.graph
    return graph


def _write_erfc(context: Any, node: Any, name: str, _: list[Any]) -> None:
    """Write erfc(x), which GELU has and ONNX lacks, as 1 - erf(x)."""
    node.type = "Erf"
    one = context.make_const(f"{name}/one", np.array(1, np.float32)).output[0]
    less = context.make_node("Sub", [one, node.output[0]], dtypes=node.output_dtypes, shapes=node.output_shapes)
    context.insert_node_on_output(less, node.output[0])


def _convolve(images: Any, kernel: Any) -> Any:
    return tf.nn.conv2d(images, kernel[None, None], 1, "VALID")


@contextmanager
def traceable() -> Iterator[None]:
    """Let Keras trace some layers by other operators than it runs them by, to the same function.

    A convolution with groups asks for XLA, to run in TensorFlow on a CPU, which tf2onnx can't look into. A Dense layer
    on images is a 1x1 convolution; Keras's own way of writing it, by reshapes of shapes that are computed, comes out as
    a dozen operators, between which tf2onnx looks for transpositions for half a minute.
    """
    function, call = tf.function, keras.layers.Dense.call

    def without_xla(*arguments: Any, jit_compile: bool | None = None, **settings: Any) -> Any:
        return (lambda traced: traced) if jit_compile else function(*arguments, **settings)

    def dense(layer: Any, inputs: Any, training: bool | None = None) -> Any:
        rank = len(inputs.shape)
        if rank <= ROWS_RANK:
            return call(layer, inputs, training=training)
        kernel = tf.convert_to_tensor(layer.kernel)
        product = tf.linalg.matmul if rank != IMAGE_RANK else _convolve
        value = product(inputs, kernel)
        return layer.activation(tf.nn.bias_add(value, layer.bias) if layer.use_bias else value)

    tf.function, keras.layers.Dense.call = without_xla, dense
    try:
        yield
    finally:
        tf.function, keras.layers.Dense.call = function, call


@contextmanager
def _without_copies() -> Iterator[None]:
    """Keep tf2onnx from copying the graph before each of its optimizers, to go back to if one fails.

    At full size that takes 15 s and 3.6 GB instead of 24 s and 7.4 GB. An optimizer that fails is then an error, not a
    warning.
    """
    name = tf2onnx.constants.ENV_TF2ONNX_CATCH_ERRORS
    before = os.environ.get(name)
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _with_scalars() -> Iterator[None]:
    """Let tf2onnx move a transposition past the addition of a scalar, over which its optimizer stumbles up to 1.17.

    It takes the scalar behind a convolution, such as the 3 of a hard swish, for a bias, and asks for its largest axis.
    """
    before = TransposeOptimizer._add_handler

    def add(optimizer: Any, transposed: Any, node: Any) -> bool:
        other = node.inputs[1]
        if other.is_const() and not other.get_tensor_value(as_list=False).shape:
            return bool(optimizer._switch_transpose_and_node(node, transposed))
        return bool(before(optimizer, transposed, node))

    TransposeOptimizer._add_handler = add
    try:
        yield
    finally:
        TransposeOptimizer._add_handler = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence tf2onnx's progress messages."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _canonical_names(graph: onnx.GraphProto, inputs: Sequence[str]) -> dict[str, str]:
    """Name each tensor anew, from the layer that makes or first uses it, so that the names are the same every time.

    tf2onnx counts through everything that it did in this process, so the same model would give other bytes, and
    another hash, each time.
    """
    names = {"": ""} | {name: name for name in inputs}
    taken: set[str] = set()
    neighbours = _Neighbours(graph)
    for node in graph.node:
        base = _unique(PREFIX + neighbours.path(node), taken)
        node.name = base
        for position, name in enumerate(node.output):
            names[name] = base if position == 0 else f"{base}:{position}"
        for position, name in enumerate(node.input):
            names.setdefault(name, f"{base}/constant_{position}")
    return names


class _Neighbours:
    """Names the convolutions that BatchNorm was folded into, which tf2onnx calls Conv, after what is next to them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._takers = {name: node for node in reversed(graph.node) for name in node.input}

    def path(self, node: onnx.NodeProto) -> str:
        """Name a node's place, such as ``block2_sepconv1_1/separable_conv2d/pointwise`` or ``add_1/Conv``."""
        path = _layer_path(node.name)
        if path != "Conv":
            return path
        maker, taker = self._makers.get(node.input[0]), self._takers.get(node.output[0])
        if maker is not None and _layer_path(maker.name).endswith("/depthwise"):
            return _layer_path(maker.name).removesuffix("depthwise") + "pointwise"
        return f"{_layer_path(taker.name).rsplit('/', 1)[0]}/Conv" if taker is not None else path


def _layer_path(name: str) -> str:
    """Shorten ``cnn_1/block1_conv1_1/convolution__6`` to ``block1_conv1_1/convolution``."""
    path = re.sub(r"__\d+", "", name)
    return path.split("/", 1)[1] if path.startswith("cnn") and "/" in path else path


def _unique(name: str, taken: set[str]) -> str:
    chosen, count = name, 1
    while chosen in taken:
        count += 1
        chosen = f"{name}_{count}"
    taken.add(chosen)
    return chosen


def _rename_node(node: onnx.NodeProto, rename: dict[str, str]) -> None:
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise ConversionError(f"expected no control flow in the network, found {node.op_type} {node.name!r}")
    inputs, outputs = [rename[name] for name in node.input], [rename[name] for name in node.output]
    del node.input[:], node.output[:]
    node.input.extend(inputs)
    node.output.extend(outputs)
