"""Makes progress bars for steps that print a line with their result when they end."""

from __future__ import annotations

from rich.progress import Progress, ProgressColumn

from ..runtime.console import progress, status

__all__ = ["transient_bar"]


def transient_bar(*extra: ProgressColumn, unit: str = "") -> Progress:
    """Make a progress bar that leaves nothing behind when it ends, and writes nothing where stderr is no terminal."""
    bar = progress(*extra, unit=unit, transient=True)
    bar.disable = not status.is_terminal  # rich would leave an empty line in a log
    return bar
