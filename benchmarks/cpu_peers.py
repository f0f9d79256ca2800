"""Our CPU variants against other engines on the same model, inputs and CPUs, in one interleaved run.

    make bench MODEL=model.keras BUNDLE=bundle IMAGES=val CALIBRATION=calib

Without a model it makes the tests' full-size stand-in first (minutes, kept in bench/). Writes results/peers.json,
docs/benchmarks.md and its plot. Each engine is a process of its own, some in an environment that is made on demand; one
that can't be installed, converted or run is left out, with the reason.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from interleave import OUT, RESULTS
from peers.page import DOCS, write_page
from peers.run import Plan, measure
from peers.standin_run import Run, standin_run

from hybrid_edge.runtime.errors import HybridEdgeError, UsageError

WORK = Path(__file__).parent.parent / "bench"


def main(
    model: Annotated[Path | None, typer.Option(help="A .keras file of hybrid-train.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Its bundle, with --fp32 and --int8.")] = None,
    images: Annotated[Path | None, typer.Option(help="Class folders, for labels and accuracy.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="To calibrate the peers' INT8 on.")] = None,
    count: Annotated[int, typer.Option(help="The most images that labels are compared on.")] = Plan.images,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = ",".join(map(str, Plan.batches)),
    rounds: int = Plan.rounds,
    threads: int = Plan.threads,
    only: Annotated[list[str] | None, typer.Option(help="Only peers whose name holds this; Keras always.")] = None,
    python: Annotated[list[str] | None, typer.Option(help="openvino=/path/python: an environment to use.")] = None,
    work: Annotated[Path, typer.Option(help="Where environments and conversions are kept.")] = WORK,
    out: Path = RESULTS,
    docs: Path = DOCS,
) -> None:
    """Measure, and write the page."""
    try:
        run = _run(model, bundle, images, calibration, work.absolute())
        pythons = dict(item.split("=", 1) for item in python or ())
        sizes = tuple(int(item) for item in batch.split(","))
        plan = Plan(run, work.absolute(), sizes, rounds, threads, count, tuple(only or ()), pythons)
        measure(plan).save(out)
    except HybridEdgeError as error:
        sys.exit(f"error: {error}")
    OUT.print(f"docs/{write_page(out, docs).name} written")


def _run(model: Path | None, bundle: Path | None, images: Path | None, calibration: Path | None, work: Path) -> Run:
    if model is None and bundle is None and images is None:
        return standin_run(work / "standin")
    if model is None or bundle is None or images is None:
        raise UsageError("expected --model, --bundle and --images together, or none of them: found only some")
    return Run(model.absolute(), bundle.absolute(), images, calibration or images)


if __name__ == "__main__":
    typer.run(main)
