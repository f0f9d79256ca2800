"""Loads a SavedModel folder, which can hold any operation, by way of a child process that can do no harm."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import keras
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from ...runtime.errors import ModelFileError
from ...train.model import KerasModel
from .graph_operations import MATHEMATICS, check_constants, check_operations
from .layer_settings import LARGEST
from .model_files import ForeignFile

SECONDS = 300  # importing TensorFlow and freezing a MobileNetV2 takes 12 on two cores
MAX_LINE = 2**16
MAX_GRAPH = 2**31  # what a GraphDef can have
KEPT = ("LD_LIBRARY_PATH", "LANG", "PATH", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
CHILD = "import sys; sys.path[:0] = sys.argv[2:]; from hybrid_edge.export.adopt.freeze import main; main(sys.argv[1])"


def load_saved_model(path: Path, found: ForeignFile) -> KerasModel:
    """Return a model of one layer, the frozen graph of a SavedModel's signature: image (N, H, W, C) -> scores (N, K).

    Raises:
        ModelFileError: an operation is not pure mathematics (it is named), the signature is not one image to one
            vector of scores, or the child process failed or ran out of its time or memory.
    """
    if found.kind != "saved_model":
        raise ValueError(f"expected a SavedModel, found {found.kind}")
    try:
        about, serialized = _freeze_elsewhere(path)
        layer = _FrozenGraph(about, _parse(serialized))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    image = keras.Input(tuple(about["shape"][1:]), name="image")
    return keras.Model(image, layer(image), name="saved_model")


def _freeze_elsewhere(path: Path) -> tuple[dict[str, Any], bytes]:
    """Run the child and return what it says and the graph that it froze."""
    environment = {key: os.environ[key] for key in KEPT if key in os.environ}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-I", "-B", "-c", CHILD, str(path.absolute()), *sys.path]
    with subprocess.Popen(  # noqa: S603  # our own module; the path is an argument
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
    ) as child:
        timer = threading.Timer(SECONDS, child.kill)
        timer.start()
        try:
            answer = _read(child.stdout) if child.stdout is not None else None
        finally:
            timer.cancel()
            child.kill()
    if answer is None:
        raise ModelFileError(
            f"the process that read it ended without an answer (exit {child.returncode}); it may take {SECONDS} s and "
            "8 GB. Give the .keras or the .h5 of the model"
        )
    return answer


def _read(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read the child's answer, which is not trusted; None where it is none."""
    try:
        about = json.loads(pipe.readline(MAX_LINE))
        if "refused" in about:
            raise ModelFileError(str(about["refused"])[:1000])
        size = int(about["bytes"])
        shape = [None if size is None else int(size) for size in about["shape"]]
        kept = {"input": str(about["input"]), "output": str(about["output"]), "classes": int(about["classes"])}
        graph = pipe.read(size) if 0 < size <= MAX_GRAPH else b""
    except (ValueError, LookupError, TypeError):
        return None
    return ({**kept, "shape": shape}, graph) if len(graph) == size else None


def _parse(serialized: bytes) -> Any:
    graph = GraphDef()
    try:
        graph.ParseFromString(serialized)
    except Exception as error:
        # protobuf's types differ by its implementation
        raise ModelFileError(f"the frozen graph is damaged: {type(error).__name__}") from None
    if graph.library.function:
        raise ModelFileError("the frozen graph calls functions; expected operations alone")
    check_operations(graph.node, MATHEMATICS)
    check_constants(graph.node, len(serialized))
    return graph


def _before_activation(scores: Any) -> tuple[Any, Any]:
    """Return what a graph's last softmax or sigmoid takes, and that function of Keras; linear without either."""
    kinds = {"Softmax": keras.activations.softmax, "Sigmoid": keras.activations.sigmoid}
    maker = scores.op
    while maker.type == "Identity":
        maker = maker.inputs[0].op
    if maker.type in kinds:
        return maker.inputs[0], kinds[maker.type]
    return scores, keras.activations.linear


class _FrozenGraph(keras.layers.Layer):  # type: ignore[misc]
    """A graph of pure mathematics as a layer: image (N, H, W, C) float32 -> scores (N, K) float32."""

    def __init__(self, about: dict[str, Any], graph: Any) -> None:
        super().__init__(name="frozen_graph", trainable=False)
        self._classes = about["classes"]
        try:
            imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
            image, scores = (imported.graph.as_graph_element(about[key]) for key in ("input", "output"))
            scores, self.activation = _before_activation(scores)
            self._function = imported.prune(image, scores)
        except Exception as error:
            # TensorFlow raises ValueError, KeyError and types of its own
            text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise ModelFileError(f"the frozen graph can't be used: {text}") from error
        self._dtype_inside = image.dtype
        for operation in imported.graph.get_operations():
            for tensor in operation.outputs:
                sizes = tensor.shape.as_list() if tensor.shape.rank is not None else []
                if math.prod(size or 1 for size in sizes) > LARGEST:
                    raise ModelFileError(f"the operation {operation.name!r} gives the shape {tensor.shape}; refused")

    def call(self, image: Any) -> Any:
        """Compute the scores."""
        return self.activation(tf.cast(self._function(tf.cast(image, self._dtype_inside)), "float32"))

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (N, K)."""
        return shape[0], self._classes
