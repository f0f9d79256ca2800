"""The ``hybrid-bench`` command measures latency, throughput, memory and limits of a bundle's variants here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import console
from ..bench.request import BenchRequest, parse_batches, parse_names
from .options import refuse_others

__all__ = ["app", "bench", "main"]

WHAT, HOW, RESULTS, LIMITS = "What", "How long", "Results", "Limits"  # panels of --help
CHOICE = ("BUNDLE", "--batch", "--backend", "--precision", "--variant")  # what --predict-for may stand beside


def bench(
    context: typer.Context,
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE",
            help="Bundle folder or tar, or a run folder.",
            show_default="./manifest.json, ./bundle, runs/latest/bundle",
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="N,N,…", help="Batch sizes, each a case of its own.", rich_help_panel=WHAT)
    ] = "1,2,4,8",
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="tensorrt, cuda, cpu: only these.", show_default="all", rich_help_panel=WHAT
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="fp32, fp16, int8: only these.", show_default="all", rich_help_panel=WHAT),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Variants of the bundle: only these.", show_default="all", rich_help_panel=WHAT
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads.", show_default="the engine's choice", rich_help_panel=WHAT),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="MIN,OPT,MAX",
            help="Batch sizes of a TensorRT engine.",
            show_default="1,1,8",
            rich_help_panel=WHAT,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="For which each part of a case is measured.", rich_help_panel=HOW)
    ] = 2.0,
    rounds: Annotated[
        int, typer.Option(min=1, help="In how many rounds, each through all cases.", rich_help_panel=HOW)
    ] = 12,
    starts: Annotated[
        int,
        typer.Option(
            min=0, help="Fresh processes of each variant, for memory and time to first prediction.", rich_help_panel=HOW
        ),
    ] = 3,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="All of it, for machines and --compare.", rich_help_panel=RESULTS),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A flat row for each case.", rich_help_panel=RESULTS)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Latency by batch, split by branch.", rich_help_panel=RESULTS),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A.json B.json",
            help="Measure nothing: what got faster or slower from A to B, beyond the noise.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Measure this CPU's peak rates: the limit beside its numbers.", rich_help_panel=LIMITS
        ),
    ] = False,
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="The limit beside the numbers, from this device's published rates.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    predict_for: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Measure nothing: the bound on a device that isn't here: orin-nano, orin-nano-super, agx-orin, ….",
            rich_help_panel=LIMITS,
        ),
    ] = None,
) -> None:
    """Measure a bundle's variants on this machine: latency, throughput, memory, and where the time goes.

    Every variant that runs here × every batch size, in interleaved rounds, so that
    a machine that drifts does so for all alike. End other programs first.

    Tables go to stdout, everything else to stderr. Exit code 0: done; 1: something
    failed; 2: wrong usage; 3: a variant asked for computes something else here
    than where it was exported; 130: interrupted, and nothing was written.

    Example: hybrid-bench runs/latest --json before.json --plot before.png

    Example: hybrid-bench --compare before.json after.json

    Example: hybrid-bench --predict-for orin-nano-super
    """
    from ..bench import command  # noqa: PLC0415  # --help should not wait for it

    if compare is not None:
        refuse_others(context, "--compare", ())
        command.compare(*compare)
        return
    if predict_for is not None:
        refuse_others(context, "--predict-for", CHOICE)
    request = BenchRequest(
        bundle,
        batches=parse_batches(batch),
        backends=parse_names(backend),
        precisions=parse_names(precision),
        variants=parse_names(variant),
        seconds=seconds,
        rounds=rounds,
        threads=threads,
        probe=probe,
        rates=rates,
        starts=starts,
        profile=profile,
    )
    if predict_for is not None:
        command.predict(request, predict_for)
        return
    command.measure(request, command.Files(json, csv, plot))


app = console.make_app(bench)


def main() -> NoReturn:
    """Run ``hybrid-bench`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
