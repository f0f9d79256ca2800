"""The ``hybrid-compare`` command runs several bundles on the same images and shows where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import console
from ..trust import Trust
from .options import (
    ENGINE,
    BackendOption,
    BuildOption,
    BundleOption,
    CheckOption,
    ExpectSha256Option,
    PrecisionOption,
    ProfileOption,
    RequireSignatureOption,
    ThreadsOption,
    WorkspaceOption,
)

RESULTS = "Results"  # a panel of --help


def compare(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="Images, folders, globs, videos; any, mixed.", show_default=False),
    ],
    others: Annotated[list[Path], typer.Option("--with", metavar="BUNDLE", help="A further bundle; may be repeated.")],
    bundle: BundleOption = None,
    expect_sha256: ExpectSha256Option = None,
    require_signature: RequireSignatureOption = None,
    batch: Annotated[
        int, typer.Option(min=1, max=4096, help="Images that go through a model at once.", rich_help_panel=ENGINE)
    ] = 8,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    check: CheckOption = None,
    build: BuildOption = True,
    profile: ProfileOption = None,
    workspace: WorkspaceOption = None,
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
    from ..compare.compare_bundles import compare_bundles  # noqa: PLC0415  # --help should not wait for it
    from ..engines.engine_options import EngineOptions  # noqa: PLC0415

    code = compare_bundles(
        images,
        bundle,
        others,
        trust=Trust.from_flags(expect_sha256, require_signature),
        sheet=sheet,
        as_json=as_json,
        top_k=top_k,
        batch_size=batch,
        backend=backend,
        precision=precision,
        threads=threads,
        check=check,
        engine=EngineOptions.from_flags(profile, workspace, build=build),
    )
    if code:
        raise typer.Exit(code)


app = console.make_app(compare)


def main() -> NoReturn:
    """Run ``hybrid-compare`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
