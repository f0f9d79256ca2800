"""The full-size stand-in through the real command, and a second way to its graphs that does not convert it again."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from hybrid_edge.export.convert.fp32_graph import GraphBuilder
from hybrid_edge.export.convert.graph_writer import GraphWriter
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.spec import ModelSpec


@dataclass(frozen=True)
class FullExport:
    """The stand-in, exported by the command."""

    model: Any
    bundle: Bundle
    graph: Path
    seconds: float
    memory: int
    output: str


def export_by_command(file: Path, model: Any, photos: Path, folder: Path) -> FullExport:
    """hybrid-export in a process of its own, parity included."""
    program = Path(sys.executable).with_name("hybrid-export")
    log = folder / "log"
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, file, "--recurrent", "lstm", "--images", photos, "--out", folder / "bundle"],
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, log.read_text()
    bundle = Bundle.open(folder / "bundle")
    graph = bundle.verified(bundle.manifest.variants[0].file)
    return FullExport(model, bundle, graph, seconds, usage.ru_maxrss * 1024, log.read_text())


class Rebuilder(GraphBuilder):
    """Takes the CNN branch from a graph that was exported: converting it again gives the same, 20 s later."""

    def __init__(self, graph: Path, model: Any, spec: ModelSpec) -> None:
        source = onnx.load(graph).graph
        self._model = model
        self._spec = spec
        self._adopted = None
        self._branch = GraphWriter("cnn")
        nodes = [node for node in source.node if node.name.startswith("cnn/")]
        used = {name for node in nodes for name in node.input}
        self._branch.graph.node.extend(nodes)
        self._branch.graph.initializer.extend(tensor for tensor in source.initializer if tensor.name in used)
        self._features = nodes[-1].output[0]
