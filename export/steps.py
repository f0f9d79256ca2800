"""What a long command is doing, said step by step with its seconds."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator

from ..runtime.terminal import status

__all__ = ["Steps", "peak_memory_mib"]


class Steps:
    """Names and times the steps of one command on stderr.

    Attributes:
        seconds: of each step that has ended, by name, in their order.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._quiet = quiet

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a block as one step: shown as running, then with its seconds."""
        start = time.perf_counter()
        spinner = contextlib.nullcontext() if self._quiet else status.status(name)
        with spinner:
            yield
        self.seconds[name] = time.perf_counter() - start
        self.say(f"{self.seconds[name]:6.1f} s  {name}")

    def say(self, message: str, style: str = "") -> None:
        """Print a line, unless quiet."""
        if not self._quiet:
            status.print(message, style=style or None, markup=False, soft_wrap=True)


def peak_memory_mib() -> float:
    """The most memory that this process has held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
