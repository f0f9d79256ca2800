"""While TensorRT builds, listeners hear of its phases, bars on stderr show them, and Ctrl-C stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .library import Library

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

INTERRUPT_POLL_S = 0.1  # between looks for Ctrl-C while TensorRT builds


class Listener(Protocol):
    """Hears of a build's phases, from TensorRT's threads, in which an exception of a listener would be lost."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Hear that a phase of ``steps`` steps begins, within its parent if it has one."""

    def step(self, phase: str, number: int) -> None:
        """Hear that a phase's step, counted from 0, is done."""

    def finish(self, phase: str) -> None:
        """Hear that a phase is over, done or not."""


@dataclass(frozen=True)
class Reporter:
    """Is told while engines are prepared; by default it drops what it is told.

    ``say`` takes a line of what is being done; ``show`` makes a context for the time of a build, which gives the
    listener to its progress, or None.
    """

    say: Callable[[str], object] = lambda _: None
    show: Callable[[], AbstractContextManager[Listener | None]] = nullcontext


class _PhaseBars:
    """Shows a bar for each phase that is under way; the phases within another are indented."""

    def __init__(self, progress: Progress, on_progress: Callable[[], None]) -> None:
        self._progress = progress
        self._on_progress = on_progress
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._on_progress()
        indent = "" if parent is None else "  "
        with self._lock:
            self._tasks[phase] = self._progress.add_task(f"{indent}{phase}", total=steps or None)

    def step(self, phase: str, number: int) -> None:
        self._on_progress()
        with self._lock:
            if phase in self._tasks:
                self._progress.update(self._tasks[phase], completed=number + 1)

    def finish(self, phase: str) -> None:
        self._on_progress()
        with self._lock:
            if phase in self._tasks:
                self._progress.remove_task(self._tasks.pop(phase))


@contextmanager
def show_progress(on_progress: Callable[[], None] = lambda: None) -> Iterator[Listener]:
    """Show bars on stderr while an engine is built, or nothing where stderr is no terminal; yield their listener."""
    from .. import console  # noqa: PLC0415  # rich takes 50 ms, and few starts build an engine

    with console.progress(transient=True) as progress:
        yield _PhaseBars(progress, on_progress)


def make_reporter(stop: Callable[[], None], progress: Callable[[], None] = lambda: None) -> Reporter:
    """Make a Reporter that ends the spinner by ``stop`` and then says on stderr what is being built, with a bar.

    ``progress`` is called at each line and each step of the build.
    """
    from ..console import say  # noqa: PLC0415  # rich takes 50 ms, and few starts build an engine

    def tell(text: str) -> None:
        progress()
        say(text)

    @contextmanager
    def show() -> Iterator[Listener]:
        stop()
        with show_progress(progress) as bars:
            yield bars

    return Reporter(tell, show)


def make_monitor(library: Library, listener: Listener, cancel: threading.Event) -> Any:
    """Make an IProgressMonitor that tells ``listener``, and asks TensorRT to stop once ``cancel`` is set."""
    trt = library.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 wants this call, not super()'s

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            listener.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            listener.step(phase_name, step)
            return not cancel.is_set()

        def phase_finish(self, phase_name: str) -> None:
            listener.finish(phase_name)

    return Monitor()


def run_interruptibly(call: Callable[[], T], cancel: threading.Event) -> T:
    """Run ``call`` in a thread, so that Ctrl-C reaches us while TensorRT works; ``cancel`` then asks it to stop."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again by result(), in the caller's thread
            future.set_exception(error)

    thread = threading.Thread(target=work, name="engine build", daemon=True)
    try:
        thread.start()
        while not wait([future], INTERRUPT_POLL_S).done:
            pass
    except BaseException:
        cancel.set()
        if thread in threading.enumerate():  # Ctrl-C may also come before the thread was started
            wait([future])
        raise
    return future.result()
