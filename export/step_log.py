"""Reports what a long command is doing, step by step, with the seconds of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from ..runtime import console
from ..runtime.console import progress, status


class StepLog:
    """Names and times the steps of one command on stderr.

    ``seconds`` is how long each step that has ended took, by its name, in order; steps of one name are added up.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._quiet = quiet

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Run a block as one step, which is shown as running and then with its seconds.

        With ``total``, the number of images that the step goes through, there is a progress bar; the function that the
        block gets advances it by a number of images.
        """
        start = time.perf_counter()
        with self._shown(name, total) as advance:
            yield advance
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0) + seconds
        self.say(f"{seconds:6.1f} s  {name}")

    def say(self, message: str, style: str = "") -> None:
        """Print a line on stderr, unless these steps are quiet."""
        if not self._quiet:
            console.say(message, style)

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
