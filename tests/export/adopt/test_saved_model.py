"""SavedModels: what computes is loaded by way of a confined process, what does more is refused by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.models.hostile_files import CANARY
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from hybrid_edge.export.adopt import saved_model
from hybrid_edge.export.adopt.adopted_model import in_our_shape
from hybrid_edge.export.adopt.freeze import check_model
from hybrid_edge.export.adopt.graph_operations import check_constants
from hybrid_edge.export.adopt.model_files import inspect_file
from hybrid_edge.export.adopt.saved_model import load_saved_model
from hybrid_edge.runtime.errors import ModelFileError
from hybrid_edge.runtime.process import peak_mib

IMAGES = tf.TensorSpec((None, 8, 8, 3), tf.float32)

CONFINED = """
import ctypes, os, pathlib, socket, subprocess, sys, threading
from hybrid_edge.export.adopt.confinement import confine
kept = open(sys.argv[1] + "/already_open", "w")
confine()
def write(): pathlib.Path(sys.argv[1], "new").write_text("x")
def append(): open(sys.argv[1] + "/already_there", "r+")
def write_open(): kept.write("x"); kept.flush()
def truncate(): os.truncate(sys.argv[1] + "/already_there", 0)
def remove(): os.unlink(sys.argv[1] + "/already_there")
def rename(): os.rename(sys.argv[1] + "/already_there", sys.argv[1] + "/new")
def link(): os.symlink("/etc/passwd", sys.argv[1] + "/new")
def folder(): os.mkdir(sys.argv[1] + "/new")
def mode(): os.chmod(sys.argv[1] + "/already_there", 0o777)
def connect(): socket.socket().connect(("127.0.0.1", 1))
def program(): os.execv(sys.executable, [sys.executable, "-c", ""])
def process(): subprocess.run([sys.executable, "-c", ""], close_fds=False)
def fork(): os.fork()
def kill(): os.kill(os.getppid(), 0)
for attempt in (write, append, write_open, truncate, remove, rename, link, folder, mode, connect, program, process,
                fork, kill):
    try:
        attempt()
        print(attempt.__name__)
    except OSError:
        pass
threads = []
thread = threading.Thread(target=lambda: threads.append(pathlib.Path("/etc/hostname").exists()))
thread.start(); thread.join()
sys.stdout.write("ran" if threads else "no threads")
sys.stdout.flush()
os._exit(0)
"""


def test_a_confined_process_reads_and_computes_and_can_do_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "already_there").write_text("kept")
    command = [sys.executable, "-c", CONFINED, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (answer.stdout, answer.stderr) == ("ran", "")
    assert (tmp_path / "already_there").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"already_there", "already_open"}


def test_a_saved_model_of_keras_2_answers_as_it_did_there(keras2_files: Path) -> None:
    folder = keras2_files / "sequential"
    model = load_saved_model(folder, inspect_file(folder))
    known = np.load(keras2_files / "sequential.npz")
    assert (model.input_shape, model.output_shape) == ((None, 16, 16, 3), (None, 5))
    np.testing.assert_allclose(model(known["image"], training=False), known["answer"], atol=1e-6)
    np.testing.assert_allclose(tf.function(model)(known["image"]), known["answer"], atol=1e-6)


def write_first(scores: Any) -> Any:
    with tf.control_dependencies([tf.io.write_file(str(CANARY), "x")]):
        return tf.identity(scores)


def call_python(scores: Any) -> Any:
    found = tf.py_function(lambda value: CANARY.touch() or value, [scores], tf.float32)
    return tf.ensure_shape(found, (None, 2))


def loop(scores: Any) -> Any:
    return tf.while_loop(lambda value: tf.reduce_sum(value) < 1, lambda value: (value + 1,), (scores,))[0]


DEEDS = {
    "nothing": lambda scores: scores,
    "ReadFile": lambda scores: scores + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), "float32"),
    "WriteFile": write_first,
    "EagerPyFunc": call_python,
    "While": loop,
    "RandomUniform": lambda scores: scores + tf.random.uniform((2,)),
}


class Doing(tf.Module):
    """A model that also reads a file, writes one, calls Python or the like."""

    def __init__(self, deed: str) -> None:
        super().__init__()
        self.deed = DEEDS[deed]
        self.weight = tf.Variable(tf.ones((192, 2)))

    @tf.function(input_signature=[IMAGES])
    def scores(self, image: Any) -> Any:
        return self.deed(tf.reshape(image, (-1, 192)) @ self.weight)


def save(folder: Path, deed: str) -> Path:
    made = Doing(deed)
    tf.saved_model.save(made, str(folder), signatures=made.scores)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    return parsed(save(tmp_path_factory.mktemp("plain"), "nothing"))


def parsed(folder: Path) -> SavedModel:
    model = SavedModel()
    model.ParseFromString((folder / "saved_model.pb").read_bytes())
    return model


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("ReadFile", "ReadFile .*reads or writes files"),
        ("WriteFile", "WriteFile .*reads or writes files"),
        ("EagerPyFunc", "EagerPyFunc .*runs code"),
        ("While", r"While .*is a loop.*\.keras or the \.h5"),
        ("RandomUniform", "RandomUniform .*not pure mathematics"),
    ],
)
def test_an_operation_that_is_no_mathematics_is_refused_by_name_before_it_is_loaded(
    deed: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=message):
        check_model(parsed(save(tmp_path, deed)), 0)


def test_a_saved_model_that_reads_a_file_is_refused_and_the_parent_takes_little_memory(tmp_path: Path) -> None:
    folder = save(tmp_path, "ReadFile")
    before = peak_mib()
    with pytest.raises(ModelFileError, match=rf"{folder}: the operation ReadFile"):
        load_saved_model(folder, inspect_file(folder))
    assert peak_mib() - before < 500
    assert not CANARY.exists()


def test_what_nothing_calls_may_not_read_files_either(plain: SavedModel) -> None:
    model = SavedModel()
    model.CopyFrom(plain)
    function = model.meta_graphs[0].graph_def.library.function.add()
    function.signature.name = "aside"
    function.node_def.add(name="x", op="WriteFile")
    with pytest.raises(ModelFileError, match="WriteFile"):
        check_model(model, 0)


@pytest.mark.parametrize("times", [1, 30])
def test_functions_that_call_themselves_or_unfold_without_end_are_refused(plain: SavedModel, times: int) -> None:
    model = SavedModel()
    model.CopyFrom(plain)
    graph = model.meta_graphs[0].graph_def
    for number in range(times):  # the last calls the first that stands there: itself, if there is but one
        function = graph.library.function.add()
        function.signature.name = f"f{number}"
        for name in ("a", "b"):
            callee = f"f{number + 1}" if number + 1 < times else "f0" if times == 1 else "none"
            function.node_def.add(name=name, op="PartitionedCall").attr["f"].func.name = callee
    output = next(iter(model.meta_graphs[0].signature_def["serving_default"].outputs.values())).name.split(":")[0]
    next(node for node in graph.node if node.name == output).attr["f"].func.name = "f0"
    with pytest.raises(ModelFileError, match="call each other or themselves"):
        check_model(model, 0)


@pytest.mark.parametrize("kind", ["resource", "asset"])
def test_objects_that_are_set_up_when_they_are_loaded_are_refused(plain: SavedModel, kind: str) -> None:
    model = SavedModel()
    model.CopyFrom(plain)
    getattr(model.meta_graphs[0].object_graph_def.nodes.add(), kind).SetInParent()
    with pytest.raises(ModelFileError, match=kind):
        check_model(model, 0)


def test_a_graph_of_tensorflow_1_and_one_without_a_signature_are_refused(plain: SavedModel) -> None:
    model = SavedModel()
    model.CopyFrom(plain)
    model.meta_graphs[0].signature_def.clear()
    with pytest.raises(ModelFileError, match="no signature"):
        check_model(model, 0)
    model.meta_graphs[0].ClearField("object_graph_def")
    with pytest.raises(ModelFileError, match="TensorFlow 2"):
        check_model(model, 0)


def test_a_constant_of_2_40_elements_that_are_one_value_is_refused() -> None:
    graph = GraphDef()
    value = graph.node.add(name="c", op="Const").attr["value"].tensor
    value.tensor_shape.dim.add(size=2**40)
    value.float_val.append(1.0)
    with pytest.raises(ModelFileError, match="'c' claims"):
        check_constants(graph.node, 1000)


def test_what_keras_3_exports_answers_as_before(tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    value = layers.BatchNormalization()(layers.Conv2D(3, 3, activation="swish")(image / 255.0))
    model = keras.Model(image, layers.Dense(2, activation="softmax")(layers.GlobalMaxPooling2D()(value)))
    model.export(tmp_path / "saved", verbose=False)
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    loaded = load_saved_model(tmp_path / "saved", inspect_file(tmp_path / "saved"))
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
    adopted = in_our_shape(loaded)
    assert adopted.scores == "softmax"  # found in the graph, so that logits are what is before it
    np.testing.assert_allclose(adopted.probabilities(images), model(images), atol=1e-6)
    np.testing.assert_allclose(adopted.original_scores(images), model(images), atol=1e-6)


LYING = """
import json, sys
from tensorflow.core.framework.graph_pb2 import GraphDef
graph = GraphDef()
graph.node.add(name="x", op="ReadFile")
content = graph.SerializeToString()
about = {"input": "x:0", "output": "x:0", "shape": [None, 8, 8, 3], "classes": 2, "bytes": len(content)}
sys.stdout.buffer.write(json.dumps(about).encode() + b"\\n" + content)
"""


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("import time; time.sleep(60)", r"ended without an answer \(exit -9\)"),
        ("print('[1, 2]')", "ended without an answer"),
        ('print(\'{"bytes": 1e99, "shape": []}\')', "ended without an answer"),
        ("import sys; sys.stdout.write('x' * 10**6)", "ended without an answer"),
        (LYING, "the operation ReadFile"),
    ],
)
def test_the_confined_process_is_not_trusted(
    child: str, message: str, keras2_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_model, "CHILD", child)
    monkeypatch.setattr(saved_model, "SECONDS", 300 if child is LYING else 1)
    folder = keras2_files / "sequential"
    with pytest.raises(ModelFileError, match=message):
        load_saved_model(folder, inspect_file(folder))
