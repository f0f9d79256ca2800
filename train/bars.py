"""Progress bars of steps whose result is printed when they end."""

from __future__ import annotations

from rich.progress import Progress, ProgressColumn

from ..runtime.terminal import progress, status

__all__ = ["transient_bar"]


def transient_bar(*extra: ProgressColumn, unit: str = "") -> Progress:
    """A progress bar that leaves nothing behind when it ends, and writes nothing where stderr is a file."""
    bar = progress(*extra, unit=unit, transient=True)
    bar.disable = not status.is_terminal  # rich would leave an empty line in a log
    return bar
