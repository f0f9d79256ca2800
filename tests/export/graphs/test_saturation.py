"""INT8 on an x86 CPU without VNNI, emulated: 8-bit weights saturate there, 7-bit weights compute the same."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hybrid_edge.calib import Range
from hybrid_edge.export.graphs.cpu import CpuGraph
from hybrid_edge.export.graphs.scales import BITS_7, BITS_8
from hybrid_edge.runtime.cpu import has_int8_dot_product

QEMU = shutil.which("qemu-x86_64")
CHANNELS = 32

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="U8S8 saturates on x86 alone"),
    pytest.mark.skipif(QEMU is None, reason="needs qemu-x86_64, which emulates a CPU without VNNI (qemu-user)"),
    pytest.mark.skipif(not has_int8_dot_product(), reason="needs a CPU with VNNI to compare with"),
]


def make_graph() -> onnx.ModelProto:
    """Two convolutions whose sums are large: positive activations, weights of one sign in each channel."""
    rng = np.random.default_rng(0)
    signs = rng.choice((-1, 1), (CHANNELS, 1, 1, 1))
    weights = [(signs * rng.uniform(0.5, 1, (CHANNELS, inputs, 3, 3))).astype(np.float32) for inputs in (3, CHANNELS)]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["cnn/a"], name="cnn/a"),
        helper.make_node("Relu", ["cnn/a"], ["cnn/a/relu"], name="cnn/a/relu"),
        helper.make_node("Conv", ["cnn/a/relu", "w2"], ["cnn/b"], name="cnn/b"),
        helper.make_node("GlobalAveragePool", ["cnn/b"], ["logits"], name="logits"),
    ]
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CHANNELS, 1, 1])],
        [numpy_helper.from_array(weight, name) for weight, name in zip(weights, ("w1", "w2"), strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PROGRAM = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
image = np.load(sys.argv[1])
for path in sys.argv[2:]:
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    np.save(path + sys.argv[0] + ".npy", session.run(["logits"], {"image": image})[0])
"""


def run(tag: str, arguments: list[str], emulator: tuple[str, ...] = ()) -> None:
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    start = f"import sys; sys.path[:0] = {packages.split(os.pathsep)!r}; sys.argv = {[tag, *arguments]!r}"
    program = os.path.realpath(sys.executable)
    subprocess.run([*emulator, program, "-c", f"{start}\n{PROGRAM}"], check=True, timeout=300, capture_output=True)


def logits(path: Path, tag: str) -> npt.NDArray[np.float32]:
    return np.asarray(np.load(f"{path}{tag}.npy"), np.float32)


def test_8_bit_weights_saturate_without_vnni_and_7_bit_weights_do_not(tmp_path: Path) -> None:
    source = make_graph()
    ranges = {"image": Range(0, 1), "cnn/a/relu": Range(0, 30), "cnn/b": Range(-9000, 9000)}
    files = {}
    for levels in (BITS_8, BITS_7):
        files[levels] = tmp_path / f"{levels}.onnx"
        files[levels].write_bytes(
            CpuGraph(source, ranges, ["cnn/a", "cnn/b"], levels=levels).write().SerializeToString()
        )
    image = tmp_path / "image.npy"
    np.save(image, np.random.default_rng(1).uniform(0.8, 1, (2, 3, 12, 12)).astype(np.float32))
    arguments = [str(image), *map(str, files.values())]
    run("native", arguments)
    run("emulated", arguments, (str(QEMU), "-cpu", "Haswell"))
    errors = {}
    for levels, file in files.items():
        native, emulated = logits(file, "native"), logits(file, "emulated")
        errors[levels] = float(np.abs(emulated - native).max() / np.abs(native).max())
    assert errors[BITS_7] < 1e-6
    assert errors[BITS_8] > 0.05
