"""The command ``hybrid-export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..runtime import terminal
from ..train.quiet import import_tensorflow
from .request import PARITY_IMAGES, ExportRequest, make_request
from .steps import Steps

if TYPE_CHECKING:
    from ..runtime.manifest import Parity
    from .pipeline import ExportResult

__all__ = ["main"]

MB = 1e6


def export(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="a run folder or a .keras file of hybrid-train; default: the newest run"),
    ] = None,
    fp32: Annotated[  # noqa: ARG001  # so far the only precision
        bool, typer.Option("--fp32", help="full precision; what is exported without a choice")
    ] = True,
    pack: Annotated[bool, typer.Option("--pack", help="also write the bundle as one tar, for copying")] = False,
    images: Annotated[
        Path | None,
        typer.Option(help="images to check on: class folders, or images as they lie (default: the run's validation)"),
    ] = None,
    parity_images: Annotated[int, typer.Option(help="how many images to compare with Keras on")] = PARITY_IMAGES,
    out: Annotated[
        Path | None, typer.Option(help="the bundle's folder (default: bundle/ in the run, or beside the .keras file)")
    ] = None,
    runs: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
) -> None:
    """Turn a trained model into a bundle: its ONNX graph, proven equal to the Keras model on real images.

    Example: [bold]hybrid-export --pack[/bold]
    """
    request = make_request(model, images=images, out=out, runs=runs, parity_images=parity_images)
    steps = Steps()
    for reason in request.images.skipped:
        steps.say(f"passed over {reason}", style="yellow")
    with steps.step("start TensorFlow"):
        import_tensorflow()
        import tensorflow as tf  # noqa: PLC0415  # seconds: --help and wrong usage should not wait for it

        tf.config.set_visible_devices([], "GPU")  # the reference is the CPU's; the GPU's memory is left to engines
        from . import pipeline  # noqa: PLC0415
    show(request, pipeline.export(request, tar=pack, steps=steps))


def show(request: ExportRequest, result: ExportResult) -> None:
    """Print what was written, the parity figures against their limits, and the next command."""
    variants = [item for item in result.manifest.variants if item.name in result.written]
    for warning in variants[0].parity.warnings:
        terminal.status.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    table = Table(title=f"{result.bundle}", title_justify="left")
    for column in ("artifact", "targets", "MB", "operators"):
        table.add_column(column, overflow="fold")
    for file in dict.fromkeys(item.file for item in variants):
        own = [item for item in variants if item.file == file]
        name = f"{own[0].precision} {file.path.removeprefix('artifacts/')[:12]}…"
        total = sum(own[0].operators.values())
        table.add_row(name, ", ".join(item.target for item in own), f"{file.size / MB:.1f}", str(total))
    terminal.stdout.print(table)
    terminal.stdout.print(_parity_table(variants[0].parity))
    terminal.stdout.print(
        f"bundle {result.tar or result.bundle}\n"
        f"took {sum(result.seconds.values()):.0f} s, peak memory {result.peak_memory:.0f} MiB\n"
        f"next: hybrid-infer --bundle {result.tar or result.bundle} {request.images.images[0].path}",
        soft_wrap=True,
        markup=False,
    )


def _parity_table(parity: Parity) -> Table:
    table = Table(title=f"parity with Keras on {parity.images} images ({parity.measured_on})", title_justify="left")
    for column in ("figure", "found", "limit"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    table.add_row("logits, max |Δ| / max |logit|", f"{parity.max_logit_error:.1e}", f"{parity.logit_limit:.0e}")
    table.add_row("probabilities, max |Δ|", f"{parity.max_probability_error:.1e}", f"{parity.probability_limit:.0e}")
    table.add_row("probabilities, mean |Δ|", f"{parity.mean_probability_error:.1e}", "")
    table.add_row(
        "batches of 1, 3 and 8, max |Δ| / max |logit|", f"{parity.batch_error:.1e}", f"{parity.batch_limit:.0e}"
    )
    if parity.sequence_error is not None:
        table.add_row("sequence, max |Δ|", f"{parity.sequence_error:.1e}", f"{parity.sequence_limit:.0e}")
    table.add_row("top-1 agreement", f"{parity.top1_agreement:.1%}", "")
    return table


def main() -> None:
    """Entry point of ``hybrid-export``."""
    terminal.main(terminal.make_app(export))
