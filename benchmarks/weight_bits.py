"""Weights of INT8 on the CPU: 8 bits, 7 bits, and 8 bits whose neighbours fit into 16 bits together, on one model.

    python benchmarks/weight_bits.py make model.keras VAL TRAIN FOLDER    # graphs and inputs; needs TensorFlow
    python benchmarks/weight_bits.py run FOLDER NAME CPU                  # on this CPU, into results/weight_bits.json
    python benchmarks/weight_bits.py product CPU                          # one step's product, in every form there is

The same ranges, evened channels and moments for all of them: they differ in nothing but the weights' integers. ``run``
needs ONNX Runtime alone and is meant for several CPUs; its figures stand under the name of the CPU that is given,
beside those of earlier runs. Accuracy is that of the images in VAL, agreement that with Keras's own answers.
``product`` is a hidden state of the reference model (or eight) times its recurrent weights, rounded each for itself,
also in blocks of inputs with a scale each (MatMulNBits), where the activations have a scale for each block and row too.
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
    "8 bits, paired": {"paired": True},
}
BATCHES = (1, 8)
Array = npt.NDArray[Any]


@app.command()
def make(model: Path, images: Path, calibration: Path, folder: Path, gate_images: int | None = None) -> None:
    """Write ``fp32.onnx``, a graph for each case, and the images' tensors with labels and Keras's logits."""
    from hybrid_edge.export.artifacts import Artifact, plan_artifacts
    from hybrid_edge.export.convert.fp32_graph import serialize
    from hybrid_edge.export.convert.graph_reading import quantizable
    from hybrid_edge.export.export_request import ExportSettings, make_request
    from hybrid_edge.export.quantize.cpu_graph import CpuGraph
    from hybrid_edge.export.quantize.cpu_speed import fill_channels, one_image_at_a_time
    from hybrid_edge.export.quantize.prepared_model import prepare
    from hybrid_edge.export.step_log import StepLog

    folder.mkdir(parents=True, exist_ok=True)
    request = make_request(
        model,
        images=images,
        calib=calibration,
        out=folder / "bundle",
        gate_images=gate_images,
        settings=ExportSettings(precisions=("int8",)),
    )
    prepared = prepare(request, StepLog())
    graphs, ranges, reference, spec = prepared.graphs, prepared.graphs.int8, prepared.reference, prepared.spec
    assert ranges is not None  # noqa: S101  # it was asked for
    wide = next(item for item in plan_artifacts(("fp32",), "auto", spec) if "cpu" in item.targets)
    (folder / "fp32.onnx").write_bytes(serialize(graphs.write(wide)))
    form = "unrolled" if spec.uses_rnn else "none"
    evened, artifact = graphs.evened(form), Artifact("int8", form, ("cpu",))
    layers = [layer for layer in quantizable(evened.graph) if layer not in graphs.always_wide(artifact)]
    filled, means = fill_channels(evened.graph, evened.means)
    for name, rule in CASES.items():
        graph = CpuGraph(filled, ranges.unsigned, layers, means=means, rounder=ranges.rounder, **rule).write()
        (folder / f"{name}.onnx").write_bytes(serialize(one_image_at_a_time(graph)))
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
        calls = {case: partial(call, session, tensors, ["logits"]) for case, session in sessions.items()}
        for case, seconds in interleave(calls, rounds=rounds, warm_up=3).items():
            rows[case][f"ms, batch {size}"] = 1e3 * float(np.median(seconds))
    show(f"{name} on {cpu}: {len(labels)} images, {threads} threads", rows)
    keep(name, cpu, {"images": len(labels), "threads": threads, "cases": rows})


@app.command()
def product(cpu: str, units: int = 2048, threads: int = len(os.sched_getaffinity(0)), rounds: int = 40) -> None:
    """Time and error of (1, H) and (8, H) times (H, 4H)."""
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(units, 4 * units)) / np.sqrt(units)).astype(np.float32)
    sessions = {name: open_session(graph, threads) for name, graph in product_graphs(weight).items()}
    rows: dict[str, dict[str, float]] = {name: {} for name in sessions}
    for size in BATCHES:
        tensors = {"hidden": np.tanh(rng.normal(size=(size, units))).astype(np.float32)}
        exact = tensors["hidden"].astype(np.float64) @ weight
        calls = {name: partial(call, session, tensors, None) for name, session in sessions.items()}
        for name, seconds in interleave(calls, rounds=rounds, warm_up=3).items():
            error = sessions[name].run(None, tensors)[0] - exact
            rows[name][f"RMS error, batch {size}, %"] = 100 * float(np.sqrt(np.mean(error**2) / np.mean(exact**2)))
            rows[name][f"ms, batch {size}"] = 1e3 * float(np.median(seconds))
    show(f"({units}) by ({units}, {4 * units}) on {cpu}, {threads} threads", rows)
    keep(f"product of {units} units", cpu, {"threads": threads, "cases": rows})


def product_graphs(weight: Array) -> dict[str, bytes]:
    """``hidden`` times the weight, in each form; ONNX files."""
    from hybrid_edge.export.convert.fp32_graph import set_versions
    from hybrid_edge.export.convert.graph_writer import GraphWriter
    from hybrid_edge.export.quantize.int8_weights import quantize_weight

    def graph(write: Any) -> bytes:
        writer = GraphWriter("product")
        writer.input("hidden", (len(weight),))
        write(writer)
        writer.output("product", (weight.shape[1],))
        set_versions(writer.model, 17, 8)
        writer.model.opset_import.add(domain="com.microsoft", version=1)
        return bytes(writer.model.SerializeToString())

    def whole(writer: Any, rule: dict[str, Any]) -> None:
        rounded = quantize_weight(weight, 1, **rule)
        values = (np.float32(1 / 127), rounded.scales, np.uint8(128), np.zeros(len(rounded.scales), np.int8))
        scale, scales, zero, zeros = (
            writer.constant(f"c{index}", np.asarray(item)) for index, item in enumerate(values)
        )
        integers = writer.constant("integers", rounded.integers)
        value = writer.node("QuantizeLinear", ["hidden", scale, zero], "quantized")
        inputs = [value, integers, scale, scales, zero, zeros]
        writer.node("MatMulIntegerToFloat", inputs, "product", domain="com.microsoft")

    def blocks(writer: Any, bits: int, block: int) -> None:
        parts = weight.T.reshape(weight.shape[1], -1, block)
        peaks = np.take_along_axis(parts, np.abs(parts).argmax(axis=2)[..., None], 2)
        scales = -peaks / 2 ** (bits - 1)
        integers = np.clip(np.rint(parts / scales) + 2 ** (bits - 1), 0, 2**bits - 1).astype(np.uint8)
        if bits == 4:
            integers = integers[..., ::2] | integers[..., 1::2] << 4
        inputs = ["hidden", writer.constant("integers", integers), writer.constant("scales", scales[..., 0])]
        shape = {"K": weight.shape[0], "N": weight.shape[1], "bits": bits, "block_size": block, "accuracy_level": 4}
        writer.node("MatMulNBits", inputs, "product", domain="com.microsoft", **shape)

    found = {"fp32": graph(lambda writer: writer.node("MatMul", ["hidden", writer.constant("w", weight)], "product"))}
    found |= {name: graph(partial(whole, rule=rule)) for name, rule in CASES.items()}
    kinds = ((8, 32), (8, 128), (8, 256), (4, 32), (4, 128))
    return found | {
        f"{bits} bits, blocks of {block}": graph(partial(blocks, bits=bits, block=block)) for bits, block in kinds
    }


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """A line for each case."""
    table = Table(title=title)
    table.add_column("weights")
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for case, row in rows.items():
        table.add_row(case, *(f"{value:.2f}" for value in row.values()))
    OUT.print(table)


def keep(name: str, cpu: str, found: dict[str, Any]) -> None:
    """Put figures into the results, beside those of other models and CPUs."""
    file = RESULTS / "weight_bits.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    content.setdefault(name, {})[cpu] = {"onnxruntime": onnxruntime.__version__, **found}
    file.write_text(json.dumps(content, indent=1) + "\n")


def open_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """With threads that don't go on spinning after their run, into the next session's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def call(session: onnxruntime.InferenceSession, tensors: dict[str, Array], outputs: list[str] | None) -> None:
    """Run it; what it gives is not looked at."""
    session.run(outputs, tensors)


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
