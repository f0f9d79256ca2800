"""Two signals end every command, also while C code loops, lets nobody else run or reads a hostile graph."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hybrid_edge.runtime import console

PATIENCE = 30  # seconds to what has to come at once
PROGRAM = """
import ctypes, sys
from hybrid_edge.runtime import console
from hybrid_edge.runtime.service.signals import StopSignals

def loop(stops: str, way: str, graph: str) -> None:
    if stops == "drains":  # as hybrid-infer does while frames flow
        import signal
        stopping = StopSignals({signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGHUP: 0})
        with stopping.draining(lambda: False):
            forever(way, graph)
    forever(way, graph)

def forever(way: str, graph: str) -> None:
    if way == "held":
        print("begun", flush=True)
        sum(iter(int, 1))  # one call of C that never lets go of the interpreter
    import onnxruntime
    options = onnxruntime.SessionOptions()
    if way == "session":  # what is constant is computed while the session is made
        print("begun", flush=True)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    print("begun", flush=True)
    session.run(None, {"go": [True]} if way == "run" else {})

console.main(console.make_app(loop))
"""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that loops as soon as it is run, and one that does when its constants are folded."""
    folder = tmp_path_factory.mktemp("graphs")
    for name, constant in (("run", False), ("session", True)):
        add = helper.make_node("Add", ["value", "one"], ["more"])
        same = helper.make_node("Identity", ["still"], ["still_out"])
        body = helper.make_graph(
            [add, same],
            "body",
            [
                helper.make_tensor_value_info("number", TensorProto.INT64, []),
                helper.make_tensor_value_info("still", TensorProto.BOOL, [1]),
                helper.make_tensor_value_info("value", TensorProto.FLOAT, [4]),
            ],
            [
                helper.make_tensor_value_info("still_out", TensorProto.BOOL, [1]),
                helper.make_tensor_value_info("more", TensorProto.FLOAT, [4]),
            ],
            [numpy_helper.from_array(np.ones(4, np.float32), "one")],
        )
        times = numpy_helper.from_array(np.array(2**62), "times")
        start = numpy_helper.from_array(np.zeros(4, np.float32), "start")
        go = numpy_helper.from_array(np.array([True]), "go")
        graph = helper.make_graph(
            [helper.make_node("Loop", ["times", "go", "start"], ["result"], body=body)],
            "forever",
            [] if constant else [helper.make_tensor_value_info("go", TensorProto.BOOL, [1])],
            [helper.make_tensor_value_info("result", TensorProto.FLOAT, [4])],
            [times, start, go] if constant else [times, start],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize("stops", ["raises", "drains"])
@pytest.mark.parametrize("way", ["held", "run", "session"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_what_the_first_one_does_not(
    graphs: Path, stops: str, way: str, number: signal.Signals
) -> None:
    program = [sys.executable, "-c", PROGRAM, stops, way, str(graphs / f"{way}.onnx")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(0.3)
            process.send_signal(number)
            time.sleep(0.3)
            if number == signal.SIGINT or stops == "drains":
                assert process.poll() is None, "the first signal ended it: the second proves nothing"
                process.send_signal(number)
            code = process.wait(PATIENCE)
        finally:
            process.kill()
    # what holds the interpreter is ended by the signal itself, of which a shell says 128 and its number
    asked = 0 if stops == "drains" and number == signal.SIGTERM else 128 + number
    assert code in (asked, -number)
    assert code == -number or way != "held"


def test_a_command_in_a_pipe_ends_at_one_signal_where_python_is_free(tmp_path: Path) -> None:
    program = (
        "import time; from hybrid_edge.runtime import console\n"
        "def wait() -> None:\n    print('begun', flush=True); time.sleep(60)\n"
        "console.main(console.make_app(wait))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, b"interrupted\n")


def test_every_command_runs_within_the_one_place_that_sees_to_the_second_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []

    def record(app: object) -> None:
        seen.append(app)

    monkeypatch.setattr(console, "main", record)
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML by itself")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    scripts = project["project"]["scripts"].values()
    for place in scripts:
        module, _, function = place.partition(":")
        getattr(importlib.import_module(module), function)()
    assert len(seen) == len(scripts) > 5
