"""What a long command is doing, said step by step with its seconds."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator

from ..runtime.terminal import progress, status

__all__ = ["Steps", "peak_memory_mib"]


class Steps:
    """Names and times the steps of one command on stderr.

    Attributes:
        seconds: of each step that has ended, by name, in their order; of the same name together.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._quiet = quiet

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Run a block as one step: shown as running, then with its seconds.

        Args:
            name: of the step.
            total: how many images it goes through: then there is a bar, and what the block gets advances it.
        """
        start = time.perf_counter()
        with self._shown(name, total) as advance:
            yield advance
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0) + seconds
        self.say(f"{seconds:6.1f} s  {name}")

    def say(self, message: str, style: str = "") -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            status.print(message, style=style or None, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _shown(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if self._quiet or not status.is_terminal:
            yield lambda _: None
        elif total is None:
            with status.status(name):
                yield lambda _: None
        else:
            with progress(unit="images", transient=True) as bar:
                task = bar.add_task(name, total=total)
                yield lambda count: bar.advance(task, count)


def peak_memory_mib() -> float:
    """The most memory that this process has held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
