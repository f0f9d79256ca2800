"""A recurrent branch of each cell on the CPU: ONNX's operator, unrolled steps, and unrolled steps in INT8, interleaved.

    PYTHONPATH=tests python benchmarks/recurrent_forms.py --units 64 --units 512 --size 299 --timesteps 23

Each is one layer with random weights on an image's sequence, by default the reference's 23 steps of 3887 values,
calibrated and run on crops of photographs. One thread's own CPU time is counted, which other work on the machine hardly
changes; with ``--threads 2`` it is the time that passes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, get_args

import keras
import onnx
import onnxruntime
import typer
from interleave import RESULTS, Report, interleave
from support.models.lowered import rms_error, source_of, tensors_of
from support.models.standin import fill_recurrent

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.runtime.spec import Cell, ModelSpec
from hybrid_edge.train.model import build_model

BATCHES = (1, 8)
CELLS: tuple[Cell, ...] = get_args(Cell)
LABELS = tuple(map(str, range(100)))  # so that the error of the logits is not that of one of them


def main(
    units: Annotated[list[int] | None, typer.Option(help="recurrent units; default: 512")] = None,
    size: int = 299,
    timesteps: int = 23,
    rounds: int = 20,
    threads: int = 1,
    out: Path = RESULTS,
) -> None:
    """Time each cell in each form."""
    report = Report("recurrent_forms", ("onnxruntime", "numpy"))
    for width in units or [512]:
        for cell in CELLS:
            spec = ModelSpec(
                image_size=size,
                timesteps=timesteps,
                branches="rnn",
                cell=cell,
                rnn_units=width,
                rnn_layers=1,
                class_labels=LABELS,
            )
            measure(report, spec, rounds, threads)
    report.save(out)


def measure(report: Report, spec: ModelSpec, rounds: int, threads: int) -> None:
    """Time one branch in its three forms, at every batch size."""
    keras.utils.set_random_seed(0)
    model = build_model(spec, empty=True)
    fill_recurrent(model.get_layer("rnn"), seed=0)
    source = source_of(model, spec)
    graphs = {"operator": source.forms["lstm"], "unrolled": source.forms["unrolled"]}
    graphs["unrolled, INT8"] = source.lower("int8-cpu", "unrolled")
    sessions = {form: _session(graph, threads) for form, graph in graphs.items()}
    clock = time.thread_time if threads == 1 else time.perf_counter
    for batch in BATCHES:
        tensors = {"sequence": tensors_of(spec, batch)["sequence"]}
        logits = {form: session.run(["logits"], tensors)[0] for form, session in sessions.items()}

        def run(session: Any, fed: dict[str, Any] = tensors) -> float:
            started = clock()
            session.run(["logits"], fed)
            return clock() - started

        timings = interleave({form: lambda item=item: run(item) for form, item in sessions.items()}, rounds=rounds)
        errors = {f"error_of_{form}": f"{rms_error(found, logits['operator']):.1e}" for form, found in logits.items()}
        report.add(f"{spec.cell}, {spec.rnn_units} units, batch {batch}", timings, "operator", **errors)


def _session(model: onnx.ModelProto, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else one's threads spin in another's time
    return onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    typer.run(main)
