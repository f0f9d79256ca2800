"""Weights of INT8 on the CPU: 8 bits, 7 bits, and 8 bits whose neighbours fit into 16 bits together, on one model.

    python benchmarks/weight_bits.py make model.keras VAL TRAIN FOLDER    # graphs and inputs; needs TensorFlow
    python benchmarks/weight_bits.py run FOLDER NAME                      # on this CPU, into results/weight_bits.json

The same ranges, evened channels and moments for all of them: they differ in nothing but the weights' integers. ``run``
needs ONNX Runtime alone and is meant for several CPUs; its figures stand under the name of the CPU that is given,
beside those of earlier runs. Accuracy is that of the images in VAL, agreement that with Keras's own answers.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import typer
from interleave import OUT, RESULTS, interleave
from rich.table import Table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
CASES: dict[str, dict[str, Any]] = {
    "8 bits": {"paired": False},
    "7 bits": {"paired": False, "levels": 63},
    "8 bits, paired": {},
}
BATCHES = (1, 8)
Array = npt.NDArray[Any]


@app.command()
def make(model: Path, images: Path, calibration: Path, folder: Path, gate_images: int | None = None) -> None:
    """Write ``fp32.onnx``, a graph for each case, and the images' tensors with labels and Keras's logits."""
    from hybrid_edge.export.graphs.build import serialize
    from hybrid_edge.export.graphs.cpu import CpuGraph
    from hybrid_edge.export.graphs.each_image import each_image
    from hybrid_edge.export.graphs.lanes import fill_lanes
    from hybrid_edge.export.graphs.layers import quantizable
    from hybrid_edge.export.plan import Artifact, plan_artifacts
    from hybrid_edge.export.prepare import prepare
    from hybrid_edge.export.request import make_request
    from hybrid_edge.export.settings import ExportSettings
    from hybrid_edge.export.steps import Steps

    folder.mkdir(parents=True, exist_ok=True)
    request = make_request(
        model,
        images=images,
        calib=calibration,
        out=folder / "bundle",
        gate_images=gate_images,
        settings=ExportSettings(precisions=("int8",)),
    )
    prepared = prepare(request, Steps())
    lowering, reference, spec = prepared.lowering, prepared.reference, prepared.spec
    wide = next(item for item in plan_artifacts(("fp32",), "auto", spec) if "cpu" in item.targets)
    (folder / "fp32.onnx").write_bytes(serialize(lowering.write(wide)))
    form = "unrolled" if spec.uses_rnn else "none"
    evened, artifact = lowering.evened(form), Artifact("int8", form, ("cpu",))
    layers = [layer for layer in quantizable(evened.graph) if layer not in lowering.always_wide(artifact)]
    filled, means = fill_lanes(evened.graph, evened.means)
    for name, rule in CASES.items():
        graph = CpuGraph(filled, lowering.unsigned, layers, means=means, rounder=lowering.rounder, **rule).write()
        (folder / f"{name}.onnx").write_bytes(serialize(each_image(graph)))
    batches = list(reference.batches())
    np.savez(
        folder / "data.npz",
        logits=reference.logits,
        labels=np.array([spec.class_labels.index(item.label) for item in reference.images]),
        **{name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]},
    )


@app.command()
def run(folder: Path, name: str, cpu: str, threads: int = len(os.sched_getaffinity(0)), rounds: int = 30) -> None:
    """Accuracy, agreement with Keras and time of each case on this CPU, called CPU in the results (VNNI, AVX2)."""
    data = dict(np.load(folder / "data.npz"))
    logits, labels = data.pop("logits"), data.pop("labels")
    sessions = {case: open_session(folder / f"{case}.onnx", threads) for case in ("fp32", *CASES)}
    found = {case: in_batches(session, data) for case, session in sessions.items()}
    rows = {case: figures(values, logits, labels) for case, values in found.items()}
    for size in BATCHES:
        tensors = {key: np.ascontiguousarray(value[:size]) for key, value in data.items()}
        calls = {case: partial(call, session, tensors) for case, session in sessions.items()}
        for case, seconds in interleave(calls, rounds=rounds, warm_up=3).items():
            rows[case][f"ms, batch {size}"] = 1e3 * float(np.median(seconds))
    table = Table(title=f"{name} on {cpu}: {len(labels)} images, {threads} threads")
    table.add_column("weights")
    for column in rows["fp32"]:
        table.add_column(column, justify="right")
    for case, row in rows.items():
        table.add_row(case, *(f"{value:.2f}" for value in row.values()))
    OUT.print(table)
    file = RESULTS / "weight_bits.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    content.setdefault(name, {})[cpu] = {"images": len(labels), "threads": threads, "cases": rows}
    file.write_text(json.dumps(content, indent=1) + "\n")


def open_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """With threads that don't go on spinning after their run, into the next session's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def call(session: onnxruntime.InferenceSession, tensors: dict[str, Array]) -> None:
    """Run it; what it gives is not looked at."""
    session.run(["logits"], tensors)


def in_batches(session: onnxruntime.InferenceSession, data: dict[str, Array], size: int = 8) -> Array:
    """Logits (N, C) of all images."""
    count = len(next(iter(data.values())))
    parts = [{key: value[first : first + size] for key, value in data.items()} for first in range(0, count, size)]
    return np.concatenate([session.run(["logits"], part)[0] for part in parts])


def figures(found: Array, logits: Array, labels: Array) -> dict[str, float]:
    """Percent but for the last, which is RMS of the difference over RMS, in percent too."""
    chosen, expected = found.argmax(axis=1), logits.argmax(axis=1)
    centred = logits - logits.mean(axis=1, keepdims=True)
    return {
        "accuracy, %": 100 * float(np.mean(chosen == labels)),
        "same label as Keras, %": 100 * float(np.mean(chosen == expected)),
        "labels changed": float(np.sum(chosen != expected)),
        "logits, RMS Δ / RMS, %": 100 * float(np.sqrt(np.mean((found - logits) ** 2) / np.mean(centred**2))),
    }


if __name__ == "__main__":
    app()
