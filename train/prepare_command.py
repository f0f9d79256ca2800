"""The ``hybrid-prepare`` command makes the class folders that hybrid-train reads out of public data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from ..runtime import console
from .class_folders import Prepared
from .prepare import prepare_digits, prepare_mnist, prepare_tiny_imagenet

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True)

Destination = Annotated[Path, typer.Argument(help="New or empty folder, or one that an earlier call began.")]


@app.callback()
def prepare() -> None:
    """Make class folders, DST/train/CLASS/* and DST/val/CLASS/*, of a public data set.

    Example: [bold]hybrid-prepare digits data/digits[/bold]
    """


@app.command("tiny-imagenet")
def tiny_imagenet(
    src: Annotated[Path, typer.Argument(help="tiny-imagenet as published: the folder, or the .tar.gz or .zip of it.")],
    dst: Destination,
    classes: Annotated[int | None, typer.Option(help="Only the first N classes of wnids.txt.", metavar="N")] = None,
    wnids: Annotated[Path | None, typer.Option(help="Only the classes in this file, one wnid a line.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Link the images of a folder instead of copying them.")] = False,
) -> None:
    """tiny-imagenet, with readable class names; images are copied byte for byte.

    Example: [bold]hybrid-prepare tiny-imagenet tiny-imagenet-200.zip data/tiny --classes 20[/bold]
    """
    _print(prepare_tiny_imagenet(src, dst, classes=classes, wnids=wnids, link=link))


@app.command()
def digits(dst: Destination) -> None:
    """scikit-learn's 1,797 handwritten digits at 28 x 28, centred and scaled as MNIST's; needs no network.

    Example: [bold]hybrid-prepare digits data/digits[/bold]
    """
    _print(prepare_digits(dst))


@app.command()
def mnist(dst: Destination) -> None:
    """MNIST's 70,000 handwritten digits, downloaded through Keras the first time.

    Example: [bold]hybrid-prepare mnist data/mnist[/bold]
    """
    _print(prepare_mnist(dst))


def _print(prepared: Prepared) -> None:
    splits = list(prepared.counts)
    table = Table("class", title=f"images in {prepared.dst}", title_justify="left")
    for split in splits:
        table.add_column(split, justify="right", footer=str(prepared.counts[split].total()))
    for label in sorted(set().union(*prepared.counts.values())):
        table.add_row(label, *(str(prepared.counts[split][label]) for split in splits))
    table.add_section()
    table.add_row("all", *(str(prepared.counts[split].total()) for split in splits))
    console.stdout.print(table)
    if prepared.kept:
        console.status.print(f"{prepared.kept} were there already, {prepared.written} written")


def main() -> NoReturn:
    """Run ``hybrid-prepare`` and leave the process with its exit code."""
    console.main(app)
