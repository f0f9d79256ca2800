"""The ``hybrid-compare`` command runs several bundles on the same images and shows where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import console
from ..compare.request import CompareRequest

__all__ = ["app", "compare", "main"]

BUNDLES, ENGINE, RESULTS = "Bundles", "Engine", "Results"  # panels of --help


def compare(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES", help="Images, folders, globs, videos; any, mixed.", show_default=False),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The first bundle: folder or tar, or a run folder.",
            show_default="./manifest.json, ./bundle, runs/latest/bundle",
            rich_help_panel=BUNDLES,
        ),
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="BUNDLE",
            help="A further bundle; may be repeated.",
            show_default=False,
            rich_help_panel=BUNDLES,
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, max=4096, help="Images that go through a model at once.", rich_help_panel=ENGINE)
    ] = 8,
    backend: Annotated[str, typer.Option(help="auto, tensorrt, cuda or cpu.", rich_help_panel=ENGINE)] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.", rich_help_panel=ENGINE)] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="CPU threads.", show_default="the engine's choice", rich_help_panel=ENGINE),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Run the bundles' golden examples first, and stop if they differ.",
            rich_help_panel=ENGINE,
        ),
    ] = True,
    build: Annotated[
        bool,
        typer.Option("--build/--no-build", help="Build a TensorRT engine where there is none.", rich_help_panel=ENGINE),
    ] = True,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="MIN,OPT,MAX",
            help="Batch sizes of a TensorRT engine.",
            show_default="1,1,8",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            help="Scratch memory of a TensorRT engine.",
            show_default="what is safe here",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image in the JSON.", rich_help_panel=RESULTS)] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines on stdout in place of rows and table.", rich_help_panel=RESULTS)
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Write the images on which the bundles differ.",
            show_default="differences.png for class folders",
            rich_help_panel=RESULTS,
        ),
    ] = None,
) -> None:
    """Run several bundles on the same images: accuracy, agreement, latency, size, and where they differ.

    An image's class is the name of its folder, where that is one of the labels.
    Results go to stdout, everything else to stderr.
    Exit code 0: done; 1: something failed, or a file could not be read;
    2: wrong usage; 3: this device computes something else than the exporter did,
    or TensorRT does not build the INT8 graph here; 130: interrupted.

    Example: hybrid-compare photos/test --bundle runs/cnn --with runs/rnn --with runs/hybrid
    """
    request = CompareRequest(
        tuple(sources or ()),
        bundle,
        tuple(others or ()),
        sheet=sheet,
        top_k=top_k,
        as_json=as_json,
        batch=batch,
        backend=backend,
        precision=precision,
        threads=threads,
        check=check,
        profile=profile,
        workspace=workspace,
        build=build,
    )
    from ..compare.run import compare as run  # noqa: PLC0415  # --help should not wait for it

    if code := run(request):
        raise typer.Exit(code)


app = console.make_app(compare)


def main() -> NoReturn:
    """Run ``hybrid-compare`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
