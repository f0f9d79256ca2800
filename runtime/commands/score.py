"""The ``hybrid-score`` command classifies very many images, and goes on where it was killed."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import console
from ..score.score_request import ScoreRequest
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

INPUTS, ROWS, SCALE = "Inputs", "Rows", "Scale"  # panels of --help


class FormatChoice(str, Enum):
    """The formats of part files."""

    parquet = "parquet"
    jsonl = "jsonl"


def score(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results; one that has some is gone on with.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES", help="Folders, tars, images, globs, s3://… and the like; mixed.", show_default=False
        ),
    ] = None,
    from_list: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Names or addresses of images and tars, a line each; - is stdin.",
            show_default=False,
            rich_help_panel=INPUTS,
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(metavar="I/N", help="Every N-th part or tar, from the I-th, from 0.", rich_help_panel=SCALE),
    ] = "0/1",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Work on a Ray cluster; auto: that of this machine.", rich_help_panel=SCALE
        ),
    ] = None,
    part_size: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Images in one file of results.", rich_help_panel=SCALE)
    ] = 1000,
    readers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Threads that read and decode ahead.",
            show_default="one a CPU; 16 for addresses",
            rich_help_panel=SCALE,
        ),
    ] = None,
    file_format: Annotated[
        FormatChoice, typer.Option("--format", help="jsonl needs no pyarrow.", rich_help_panel=ROWS)
    ] = FormatChoice.parquet,
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image.", rich_help_panel=ROWS)] = 5,
    min_probability: Annotated[
        float, typer.Option(metavar="0.6", min=0, max=1, help='Below it the answer is "unknown".', rich_help_panel=ROWS)
    ] = 0.0,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Probabilities as often right as they say.", rich_help_panel=ROWS)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary as one JSON object.", rich_help_panel=ROWS)
    ] = False,
    bundle: BundleOption = None,
    expect_sha256: ExpectSha256Option = None,
    require_signature: RequireSignatureOption = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Images that go through the model at once.",
            show_default="a profile's largest, else 8",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    check: CheckOption = None,
    build: BuildOption = True,
    profile: ProfileOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Classify very many images into a folder of files that appear whole.

    Killed at any moment and started again, it goes on: every image is in the
    results once. Unreadable images are rows with their reason.
    The summary goes to stdout and to DIR/summary.json, everything else to stderr.
    Exit code 0: done; 1: something failed, or an image could not be read;
    2: wrong usage; 3: this device computes something else than the exporter did,
    or TensorRT does not build the INT8 graph here; 130: interrupted.

    Example: hybrid-score archive/ --out scores

    Example: hybrid-score shards/*.tar --out scores --shard $SLURM_ARRAY_TASK_ID/100

    Example: hybrid-score s3://bucket/photos --out /shared/scores --ray auto
    """
    from ..score.score_images import score_images  # noqa: PLC0415  # --help should not wait for it

    request = ScoreRequest(
        tuple(images or ()),
        out,
        listed=from_list,
        file_format=file_format.value,
        part_size=part_size,
        shard=shard,
        readers=readers,
        bundle=bundle,
        trust=Trust.from_flags(expect_sha256, require_signature),
        top_k=top_k,
        min_probability=min_probability,
        calibrated=calibrated,
        batch=batch,
        backend=backend,
        precision=precision,
        threads=threads,
        check=check,
        profile=profile,
        workspace=workspace,
        build=build,
    )
    if code := score_images(request, ray, as_json=as_json):
        raise typer.Exit(code)


app = console.make_app(score)


def main() -> NoReturn:
    """Run ``hybrid-score`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
