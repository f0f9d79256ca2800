"""INT8 for the CPU is what its integers say on every kind of x86: on this one, and emulated without VNNI."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models.lowered import logits_of

from hybrid_edge.calib import Range
from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.quantize.cpu_graph import CpuGraph
from hybrid_edge.export.quantize.int8_weights import quantize_weight, round_for_inputs

if TYPE_CHECKING:
    from support.models.whole import Whole

Array = npt.NDArray[np.generic]

QEMU = shutil.which("qemu-x86_64")
KINDS = {"this CPU": (), "without VNNI": (str(QEMU), "-cpu", "Haswell")}
SIDE = 9
# every kernel that ONNX Runtime has for a convolution of bytes: channels taken and made, size, groups, stride
KERNELS = {
    "window": (32, 32, 3, 1, 1),
    "window of an odd number of weights": (17, 30, 3, 1, 1),
    "window with strides": (32, 32, 3, 1, 2),
    "groups": (32, 32, 3, 4, 1),
    "groups of one output each": (32, 8, 3, 8, 1),
    "depthwise": (32, 32, 3, 32, 1),
    "depthwise of no multiple of 16": (30, 30, 3, 30, 1),
    "pointwise": (64, 48, 1, 1, 1),
    "pointwise of odd numbers": (33, 21, 1, 1, 1),
}
ROWS = (1, 8)

emulated = pytest.mark.skipif(
    QEMU is None or platform.machine() != "x86_64",
    reason="needs qemu-x86_64 on x86, for a CPU without VNNI (qemu-user)",
)

DIFFERENCES = """
import json, onnxruntime, sys
import numpy as np
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
found = {}
for path in sys.argv[1:]:
    case = np.load(path)
    session = onnxruntime.InferenceSession(case["graph"].tobytes(), options, providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: case["given"]})[0]
    found[path] = float(np.abs(result - case["expected"]).max() / case["step"])
print(json.dumps(found))
"""


def in_process(code: str, arguments: list[str], kind: str) -> str:
    """Run Python code on a kind of CPU, in a process that sees the packages of this one; its stdout."""
    start = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; sys.argv = {['', *arguments]!r}"
    command = [*KINDS[kind], os.path.realpath(sys.executable), "-c", f"{start}\n{code}"]
    done = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def convolution(inputs: int, outputs: int, size: int, groups: int, stride: int) -> tuple[onnx.ModelProto, float]:
    """A convolution with weights of one sign in each channel, whose sums are the largest there are, and their reach."""
    rng = np.random.default_rng(inputs * size)
    signs = rng.choice((-1, 1), (outputs, 1, 1, 1))
    weight = (signs * rng.uniform(0.5, 1, (outputs, inputs // groups, size, size))).astype(np.float32)
    settings = {"group": groups, "strides": [stride, stride], "pads": [size // 2] * 4}
    nodes = [
        helper.make_node("Relu", ["image"], ["cnn/image"], name="cnn/image"),
        helper.make_node("Conv", ["cnn/image", "w"], ["cnn/a"], name="cnn/a", **settings),
        helper.make_node("Neg", ["cnn/a"], ["logits"], name="logits"),
    ]
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", inputs, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    reach = float(np.abs(weight).sum(axis=(1, 2, 3)).max())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), reach


def convolutions(folder: Path, *, paired: bool) -> dict[str, str]:
    """A file for each of ``KERNELS``: the graph, nearly white images, and what its integers give in float."""
    files = {}
    for name, kernel in KERNELS.items():
        source, reach = convolution(*kernel)
        ranges = {"cnn/image": Range(0, 1), "cnn/a": Range(-reach, reach)}
        graph = CpuGraph(source, ranges, ["cnn/a"], paired=paired).write()
        given = np.random.default_rng(1).uniform(0.98, 1, (2, kernel[0], SIDE, SIDE)).astype(np.float32)
        expected = logits_of(graph, {"image": given}, "int8-tensorrt")  # operator by operator, in float
        files[name] = write_case(folder / f"{name} {paired}.npz", graph, given, expected, 2 * reach / 255)
    return files


def products(folder: Path, *, paired: bool) -> dict[str, str]:
    """A file for products of one row and of many, whose weights were rounded each for itself or for their inputs."""
    rng = np.random.default_rng(2)
    weight = (rng.choice((-1, 1), 40) * rng.uniform(0.5, 1, (65, 40))).astype(np.float32)
    plain = quantize_weight(weight, 1, paired=paired)
    given = rng.integers(250, 256, (max(ROWS), 65), np.uint8)
    moment = (given.T.astype(np.float32) @ given / len(given)).astype(np.float32)
    rounded = round_for_inputs(weight, plain.scales, moment, paired=paired)
    files = {}
    for name, integers in (("product", plain.integers), ("product rounded for its inputs", rounded)):
        for rows in ROWS:
            graph = product_graph(rows, integers)
            expected = (given[:rows].astype(np.int64) - 128) @ integers.astype(np.int64)
            file = folder / f"{name} {rows} {paired}.npz"
            files[f"{name}, {rows}"] = write_case(file, graph, given[:rows], expected, 255)
    return files


def product_graph(rows: int, weight: Array) -> onnx.ModelProto:
    """A product of uint8 around 128, (rows, K), and a constant of int8, (K, N)."""
    value = helper.make_tensor_value_info("value", TensorProto.UINT8, (rows, weight.shape[0]))
    product = helper.make_tensor_value_info("product", TensorProto.INT32, (rows, weight.shape[1]))
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array(128, np.uint8), "zero")]
    node = helper.make_node("MatMulInteger", ["value", "weight", "zero"], ["product"])
    graph = helper.make_graph([node], "product", [value], [product], constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def write_case(file: Path, graph: onnx.ModelProto, given: Array, expected: Array, step: float) -> str:
    np.savez(file, graph=np.frombuffer(serialize(graph), np.uint8), given=given, expected=expected, step=step)
    return str(file)


def steps_off(folder: Path, kind: str, *, paired: bool) -> dict[str, float]:
    """How far each kernel and product is from what its integers say, in steps of its result."""
    files = convolutions(folder, paired=paired) | products(folder, paired=paired)
    found = json.loads(in_process(DIFFERENCES, list(files.values()), kind))
    return {name: found[file] for name, file in files.items()}


@pytest.mark.parametrize("kind", ["this CPU", pytest.param("without VNNI", marks=emulated)])
def test_integers_give_what_they_say_on_either_kind_of_cpu(kind: str, tmp_path: Path) -> None:
    found = steps_off(tmp_path, kind, paired=True)
    assert {name: steps for name, steps in found.items() if steps > 1.01} == {}  # between two bytes either is right


@emulated
def test_weights_of_8_bits_that_nothing_was_done_for_saturate_without_vnni(tmp_path: Path) -> None:
    found = steps_off(tmp_path, "without VNNI", paired=False)
    assert {name for name, steps in found.items() if steps <= 4} == {name for name in found if "depthwise" in name}


INFER = """
import sys
from hybrid_edge.runtime import Classifier
with Classifier.load(sys.argv[1], backend="cpu", precision="int8") as classifier:
    for found in classifier.predict(sys.argv[2:]):
        print(found.label, *found.probabilities)
"""


@emulated
def test_a_bundle_that_was_made_here_passes_its_golden_check_in_int8_on_the_other_kind_of_cpu(whole: Whole) -> None:
    images = [str(path) for path in sorted(whole.photos.rglob("*.png"))[:8]]
    run = partial(in_process, INFER, [str(whole.result.bundle), *images])
    here, there = ([line.split() for line in run(kind).splitlines()] for kind in KINDS)
    assert [row[0] for row in there] == [row[0] for row in here]
    values = [np.array([row[1:] for row in rows], float) for rows in (here, there)]
    assert np.abs(values[1] - values[0]).max() < 1e-4
