"""A command that opens a bundle shows on stderr a spinner, a bar where an engine is built, and what was taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import terminal
from .sinks import printable

if TYPE_CHECKING:
    from .classifier import Classifier
    from .engines.progress import Listener, Reporter

__all__ = ["announce", "make_reporter", "say", "waiting"]


@contextmanager
def waiting(what: str) -> Iterator[Callable[[], None]]:
    """Show a spinner on stderr, if that is a terminal, for the time of the block; yield a call that ends it early."""
    if not terminal.status.is_terminal:
        yield lambda: None
        return
    with terminal.status.status(f"{what} …") as spinner:
        yield spinner.stop


def make_reporter(stop: Callable[[], None], progress: Callable[[], None] = lambda: None) -> Reporter:
    """Make a Reporter that ends the spinner and then says on stderr what is being built, with a bar.

    Args:
        stop: ends the spinner.
        progress: is called at each line and each step of the build.
    """
    from .engines.progress import Reporter, show_progress  # noqa: PLC0415  # --help should not wait for it

    def tell(text: str) -> None:
        progress()
        say(text)

    @contextmanager
    def show() -> Iterator[Listener]:
        stop()
        with show_progress() as bar:
            yield _Progress(bar, progress)

    return Reporter(tell, show)


def announce(classifier: Classifier) -> None:
    """Say on stderr which backend and variant were taken, and how the golden check went."""
    selection, golden = classifier.selection, classifier.golden
    say(f"backend: {selection.description}")
    for target, reason in selection.passed_over.items():
        say(f"passed over {target}: {reason.split(';')[0]}")
    if golden is None:
        say("golden check: left out", style="yellow")
    else:
        say(
            f"golden check: {golden.examples} examples, probabilities within {golden.probability_error:.1g} of the "
            f"exporter's (limit {golden.tolerance:.1g}), {golden.milliseconds:.0f} ms"
        )


def say(text: str, style: str = "dim") -> None:
    """Print one line on stderr."""
    terminal.status.print(printable(text), style=style, markup=False, soft_wrap=True)


class _Progress:
    """A listener that passes everything on to a bar, and reports each call as progress."""

    def __init__(self, bar: Listener, progress: Callable[[], None]) -> None:
        self._bar = bar
        self._progress = progress

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._progress()
        self._bar.start(phase, parent, steps)

    def step(self, phase: str, number: int) -> None:
        self._progress()
        self._bar.step(phase, number)

    def finish(self, phase: str) -> None:
        self._progress()
        self._bar.finish(phase)
