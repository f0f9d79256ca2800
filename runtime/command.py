"""The ``hybrid-infer`` command: sources in, a table or JSON lines out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from .. import runtime  # its names load on first use: a missing OpenCV is an error message, not a failed import
from . import terminal
from .sinks import JsonLines, Sink, Table, printable

if TYPE_CHECKING:
    from .classifier import Classifier
    from .engines.options import EngineOptions
    from .engines.progress import Listener, Reporter
    from .sources import Sources

__all__ = ["app", "infer", "main"]

PATIENCE = 2.0  # seconds without a progress bar


def infer(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Images, folders, globs or video files, any number, mixed.")
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Bundle folder or tar, or a run folder.",
            show_default="./manifest.json, ./bundle, runs/latest/bundle",
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to give for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images that go through the model at once.")] = 8,
    backend: Annotated[str, typer.Option(help="auto, tensorrt, cuda or cpu.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="the engine's choice")] = None,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Run the bundle's golden examples first, and stop if they differ."),
    ] = True,
    profile: Annotated[
        str | None,
        typer.Option(metavar="MIN,OPT,MAX", help="Batch sizes of a TensorRT engine.", show_default="1,1,8"),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(metavar="MIB", help="Scratch memory of a TensorRT engine.", show_default="what is safe here"),
    ] = None,
) -> None:
    """Classify images and videos with a bundle.

    Results go to stdout, everything else to stderr. Exit code 0: done;
    1: something failed, or a file could not be read; 2: wrong usage;
    3: this device computes something else than the exporter did,
    or TensorRT does not build the INT8 graph here.

    A TensorRT engine is built on the first run on a machine: minutes.

    Example: hybrid-infer photos/ clip.mp4 --top-k 3

    Example: hybrid-infer 'val/**/*.jpg' --json > predictions.jsonl
    """
    found = runtime.open_sources(sources)
    engine = engine_options(profile, workspace)
    with _waiting("opening the bundle") as stop:
        classifier = runtime.Classifier.load(
            bundle,
            backend=backend,
            precision=precision,
            batch_size=batch,
            threads=threads,
            check=check,
            engine=engine,
            reporter=_reporter(stop),
        )
    with classifier:
        _announce(classifier)
        unreadable = _classify(classifier, found, _sink(classifier, top_k, as_json=as_json))
    if unreadable:
        raise typer.Exit(1)


def engine_options(profile: str | None, workspace: int | None) -> EngineOptions:
    """What ``--profile MIN,OPT,MAX`` and ``--workspace MIB`` say, or the defaults.

    Raises:
        UsageError: no three batch sizes in ascending order, or too little memory.
    """
    from .engines.options import MIB, EngineOptions, parse_profile  # noqa: PLC0415  # --help should not wait for it

    sizes = {} if profile is None else {"profile": parse_profile(profile)}
    return EngineOptions(**sizes, workspace=None if workspace is None else workspace * MIB)


def _reporter(stop: Callable[[], None]) -> Reporter:
    """Says on stderr what is being built, with a bar, once the spinner is out of the way."""
    from .engines.progress import Reporter, show_progress  # noqa: PLC0415  # --help should not wait for it

    def show() -> AbstractContextManager[Listener]:
        stop()
        return show_progress()

    return Reporter(_say, show)


def _sink(classifier: Classifier, top_k: int, *, as_json: bool) -> Sink:
    return JsonLines(top_k) if as_json else Table(top_k, classifier.labels, terminal.stdout)


def _announce(classifier: Classifier) -> None:
    """Say on stderr which backend and variant were taken, and how the golden check went."""
    selection, golden = classifier.selection, classifier.golden
    _say(f"backend: {selection.description}")
    for target, reason in selection.passed_over.items():
        _say(f"passed over {target}: {reason.split(';')[0]}")
    if golden is None:
        _say("golden check: left out", style="yellow")
    else:
        _say(
            f"golden check: {golden.examples} examples, probabilities within {golden.probability_error:.1g} of the "
            f"exporter's (limit {golden.tolerance:.1g}), {golden.milliseconds:.0f} ms"
        )


def _classify(classifier: Classifier, sources: Sources, sink: Sink) -> int:
    """Classify everything, write it, and report on stderr; return how many files could not be read."""
    frames = unreadable = 0
    start = time.perf_counter()
    with _progress(sources.total) as advance:
        for frame, prediction in classifier.stream(sources):
            sink.write(frame, prediction)
            if prediction is None:
                unreadable += 1
                _say(f"unreadable: {frame.source}: {frame.error}", style="yellow")
            frames += prediction is not None
            advance()
    seconds = time.perf_counter() - start
    _say(f"{frames} classified in {seconds:.1f} s, {frames / seconds:.1f} images/s, reading included")
    if unreadable:
        _say(f"{unreadable} could not be read, named above", style="bold yellow")
    return unreadable


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on stderr once ``PATIENCE`` is over; rows that scroll by on the same terminal are progress enough."""
    start = time.monotonic()
    with_bar = terminal.status.is_terminal and not terminal.stdout.is_terminal
    bar = terminal.progress(unit="images")
    task = bar.add_task("classifying", total=total)

    def advance() -> None:
        bar.advance(task)
        if with_bar and not bar.live.is_started and time.monotonic() - start > PATIENCE:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def _waiting(what: str) -> Iterator[Callable[[], None]]:
    """A spinner on stderr, if that is a terminal, while something takes its time; yields what ends it early."""
    if not terminal.status.is_terminal:
        yield lambda: None
        return
    with terminal.status.status(f"{what} …") as spinner:
        yield spinner.stop


def _say(text: str, style: str = "dim") -> None:
    terminal.status.print(printable(text), style=style, markup=False, soft_wrap=True)


app = terminal.make_app(infer)


def main() -> NoReturn:
    """The ``hybrid-infer`` command."""
    terminal.main(app)


if __name__ == "__main__":
    main()
