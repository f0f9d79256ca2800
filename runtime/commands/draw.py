"""The ``hybrid-draw`` command opens a window to draw digits in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import console
from ..draw.session import MAX_BUNDLES, DrawRequest
from ..trust import Trust
from .options import (
    BackendOption,
    CheckOption,
    ExpectSha256Option,
    PrecisionOption,
    RequireSignatureOption,
    ThreadsOption,
)


def draw(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BUNDLE",
            help=f"Bundle folders or tars, or run folders; 1 to {MAX_BUNDLES}.",
            show_default="./manifest.json, ./bundle, else runs/'s newest digits models: CNN, RNN and hybrid",
        ),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Predict while drawing.")] = False,
    thickness: Annotated[int, typer.Option(metavar="PIXELS", min=1, max=61, help="Of the brush.")] = 15,
    saved: Annotated[Path, typer.Option("--save", metavar="DIR", help="Where S saves drawings.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout in place of text.")] = False,
    expect_sha256: ExpectSha256Option = None,
    require_signature: RequireSignatureOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    check: CheckOption = None,
) -> None:
    """Draw digits with the mouse and see what each model reads.

    Left button draws, right button erases, wheel or +/- change the thickness;
    C clears, P predicts, L predicts while drawing, S saves, Q or Esc quits.
    The drawing is centred and scaled as MNIST's digits were;
    the 28 x 28 image that the models see is shown above it.

    Answers go to stdout, everything else to stderr.

    Example: hybrid-draw

    Example: hybrid-draw runs/cnn runs/rnn runs/hybrid --live
    """
    from ..draw.session import draw as run  # noqa: PLC0415  # --help should not wait for it

    run(
        DrawRequest(
            tuple(bundles or ()),
            trust=Trust.from_flags(expect_sha256, require_signature),
            backend=backend,
            precision=precision,
            threads=threads,
            check=check,
            live=live,
            thickness=thickness,
            saved=saved,
            as_json=as_json,
        )
    )


app = console.make_app(draw)


def main() -> NoReturn:
    """Run ``hybrid-draw`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
