"""The builder's progress: phases within phases, as a listener hears them and as a bar shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .library import Library

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "Listener", "Reporter", "make_monitor", "show_progress"]


class Listener(Protocol):
    """Hears of a build's phases. Called from TensorRT's threads; what it raises would be lost in them."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, within its parent if it has one."""

    def step(self, phase: str, number: int) -> None:
        """A phase's step, counted from 0, is done."""

    def finish(self, phase: str) -> None:
        """A phase is over, done or not."""


class Bar:
    """Shows the outermost phase, and the innermost that is under way beside it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Add the phase's line, indented below its parent's."""
        indent = "" if parent is None else "  "
        with self._lock:
            self._tasks[phase] = self._progress.add_task(f"{indent}{phase}", total=steps or None)

    def step(self, phase: str, number: int) -> None:
        """Move the phase's bar."""
        with self._lock:
            if phase in self._tasks:
                self._progress.update(self._tasks[phase], completed=number + 1)

    def finish(self, phase: str) -> None:
        """Take the phase's line away."""
        with self._lock:
            if phase in self._tasks:
                self._progress.remove_task(self._tasks.pop(phase))


def _silent() -> AbstractContextManager[Listener | None]:
    return nullcontext()


@dataclass(frozen=True)
class Reporter:
    """Whom to tell while engines are prepared; by default nobody.

    Attributes:
        say: told what is being done, a line at a time.
        show: entered for the time of a build; gives who hears of the builder's progress, or None.
    """

    say: Callable[[str], object] = lambda _: None
    show: Callable[[], AbstractContextManager[Listener | None]] = _silent


@contextmanager
def show_progress() -> Iterator[Listener]:
    """A bar on stderr while an engine is built; where stderr is no terminal, nothing."""
    from .. import terminal  # noqa: PLC0415  # rich takes 50 ms, and few starts build an engine

    with terminal.progress(transient=True) as progress:
        yield Bar(progress)


def make_monitor(library: Library, listener: Listener, cancel: threading.Event) -> Any:
    """An IProgressMonitor that tells ``listener``, and asks TensorRT to stop once ``cancel`` is set."""
    trt = library.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 wants its own, not super()'s

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            listener.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            listener.step(phase_name, step)
            return not cancel.is_set()

        def phase_finish(self, phase_name: str) -> None:
            listener.finish(phase_name)

    return Monitor()
