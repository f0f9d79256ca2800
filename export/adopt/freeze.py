"""The confined process: a SavedModel folder comes in, its signature's frozen graph goes out through a pipe.

The answer is a line of JSON, then the graph; where the file is refused, the line alone, with the reason.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ...runtime.errors import ModelFileError
from .confinement import confine
from .graph_operations import check_constants, check_saved

SIGNATURES = ("serving_default", "serve")
UNSTORED = 2**20  # bytes of variables that need not be stored, such as counters
DTYPES = ("float32", "float16", "float64", "uint8", "int32")
# what an object of a SavedModel may be; a resource or an asset would run something, or read a file, when it is loaded
OBJECTS = ("user_object", "function", "variable", "bare_concrete_function", "constant", "captured_tensor")


def main(folder: str) -> None:
    """Confine this process, freeze the model and answer on stdout, which TensorFlow can't write to then."""
    out = os.dup(1)
    os.dup2(2, 1)
    graph = b""
    try:
        confine()
        about, graph = _freeze(Path(folder))
    except ModelFileError as error:
        about = {"refused": str(error)}
    except Exception as error:  # TensorFlow's types are many; the parent says which file it was
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        about = {"refused": f"TensorFlow can't load it: {text}"}
    with os.fdopen(out, "wb") as answer:
        answer.write(json.dumps({**about, "bytes": len(graph)}).encode() + b"\n")
        answer.write(graph)


def _freeze(folder: Path) -> tuple[dict[str, Any], bytes]:
    saved = (folder / "saved_model.pb").read_bytes()
    tempfile.tempdir = "/"  # TensorFlow asks for the folder, and nothing can be tried out in one
    import tensorflow as tf  # noqa: PLC0415  # seconds, and confined
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: PLC0415
    from tensorflow.python.framework.convert_to_constants import (  # noqa: PLC0415
        convert_variables_to_constants_v2,
    )

    model = SavedModel()
    model.ParseFromString(saved)
    name = check_model(model, len(saved))
    _check_variables(model, sum(path.stat().st_size for path in (folder / "variables").glob("*")))
    loaded = tf.saved_model.load(str(folder))  # kept: its variables go with it
    frozen = convert_variables_to_constants_v2(loaded.signatures[name])
    about = _describe(frozen)
    graph = frozen.graph.as_graph_def().SerializeToString()
    return {**about, "version": _version(model)}, graph


def check_model(model: Any, size: int) -> str:
    """Check a SavedModel, of ``size`` bytes, before it is loaded; return the name of its signature.

    Raises:
        ModelFileError: it does more than compute, or was not saved by TensorFlow 2; what does is named.
    """
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].object_graph_def.nodes:
        raise ModelFileError("expected one graph as TensorFlow 2 saves it; load it there and save it again")
    meta = model.meta_graphs[0]
    kinds = {node.WhichOneof("kind") for node in meta.object_graph_def.nodes} - {None, *OBJECTS}
    if kinds:
        raise ModelFileError(f"has an object that is a {', '.join(sorted(kinds))}, as a table of words has; refused")
    name = next((name for name in SIGNATURES if name in meta.signature_def), None)
    if name is None:
        raise ModelFileError("has no signature serving_default; export it with model.export(FOLDER)")
    outputs = [tensor.name for tensor in meta.signature_def[name].outputs.values()]
    saver = meta.saver_def
    functions = meta.graph_def.library.function
    check_constants([*meta.graph_def.node, *(node for function in functions for node in function.node_def)], size)
    check_saved(meta.graph_def, outputs, (saver.save_tensor_name, saver.restore_op_name))
    return name


def _check_variables(model: Any, stored: int) -> None:
    """Hold the shapes that the variables declare against the bytes that are stored of them, before one is read."""
    import tensorflow as tf  # noqa: PLC0415  # it is loaded by now

    claimed = 0
    for node in model.meta_graphs[0].object_graph_def.nodes:
        if node.WhichOneof("kind") == "variable":
            sizes = [max(size.size, 1) for size in node.variable.shape.dim]  # -1: nobody says
            claimed += math.prod(sizes) * tf.dtypes.as_dtype(node.variable.dtype).size
    if claimed > stored + UNSTORED:
        raise ModelFileError(f"its variables claim {claimed} bytes, of which {stored} are stored; refused")


def _describe(frozen: Any) -> dict[str, Any]:
    """Return the names of the one input and the one output, if they are images and scores."""
    inputs = [tensor for tensor in frozen.inputs if tensor.dtype.name != "resource"]
    outputs = list(frozen.outputs)
    if len(inputs) != 1 or len(outputs) != 1:
        found = [tensor.name for tensor in (*inputs, *outputs)]
        raise ModelFileError(f"expected one input of images and one output of scores, found {', '.join(found)[:200]}")
    image, scores = inputs[0], outputs[0]
    shape = image.shape.as_list() if image.shape.rank is not None else []
    if len(shape) not in (3, 4) or shape[0] is not None or image.dtype.name not in DTYPES:
        raise ModelFileError(
            f"expected an input of images (None, H, W, C), found {shape or 'no shape'} of {image.dtype.name}; export "
            "the model for any number of images: keras.Input((H, W, C))"
        )
    if scores.shape.rank != 2 or scores.shape.as_list()[1] is None:
        raise ModelFileError(f"expected an output of scores (None, K), found {scores.shape}")
    return {"input": image.name, "output": scores.name, "shape": shape, "classes": int(scores.shape.as_list()[1])}


def _version(model: Any) -> str:
    return str(model.meta_graphs[0].meta_info_def.tensorflow_version)[:40]


if __name__ == "__main__":
    main(sys.argv[1])
