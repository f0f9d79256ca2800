"""Handles SIGINT, SIGTERM and SIGHUP: the first signal asks for the end, the second ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any, NoReturn

from .streams import takes

__all__ = ["STOPPING", "StopSignals", "asked_for"]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 2.5  # seconds from a signal to the end: the pipeline drains for 1.8, and then closes its outputs
CLOSING = 3.0  # seconds more, while an output is being closed: a disk may be slow
TICK = 0.1  # seconds between two looks at whether the end is held up
OUTPUTS = "hybrid_edge.runtime.outputs."


def asked_for(*signals: signal.Signals) -> frozenset[signal.Signals]:
    """Return the signals that whoever started this process did not have ignored (nohup, a shell's ``&``)."""
    return frozenset(item for item in signals if signal.getsignal(item) is not signal.SIG_IGN)


class StopSignals:
    """This context manager handles the signals for as long as its context lasts.

    Before frames flow a signal ends what is being done by an exception; while they flow (``draining``) it sets
    ``event``, and the pipeline finishes what is in the model. A second signal ends the process there and then; so does
    a thread of its own where stdout or stderr is not read and holds up the end.

    Args:
        codes: the exit code for each signal.

    Attributes:
        event: the event that is set once a signal came.
        code: the exit code for the first signal that came; None before.
    """

    def __init__(self, codes: Mapping[int, int]) -> None:
        self.event = threading.Event()
        self.code: int | None = None
        self._codes = codes
        self._draining = False
        self._before: dict[signal.Signals, Any] = {}
        self._told: SimpleQueue[int | None] = SimpleQueue()  # a handler may put into one at any moment
        self._over = threading.Event()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            threading.Thread(target=self._watch, name="signals", daemon=True).start()
            for item in asked_for(*STOPPING):
                self._before[item] = signal.signal(item, self._handle)
            # a supervisor starts its worker with these held back until they are handled
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPPING, signal.SIGTSTP))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._told.put(None)
        for item, handler in self._before.items():
            signal.signal(item, handler)

    @contextmanager
    def draining(self) -> Iterator[threading.Event]:
        """Yield ``event``; within this context the first signal sets it and raises nothing."""
        self._draining = True
        try:
            yield self.event
        finally:
            self._draining = False

    def leave(self) -> None:
        """Raise what the signal that came asks for; do nothing where none came.

        Raises:
            KeyboardInterrupt: the exit code is that of an interrupt.
            SystemExit: the exit code is another one.
        """
        if self.code == self._codes[signal.SIGINT]:
            raise KeyboardInterrupt
        if self.code is not None:
            raise SystemExit(self.code)

    def _handle(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # Python fixes the arguments
        if self.code is not None:
            _leave(self.code)
        self.code = self._codes.get(signum, 1)
        self._told.put(self.code)
        self.event.set()
        if not self._draining:
            self.leave()

    def _watch(self) -> None:
        """After the first signal, end the process where the main thread waits for a reader who does not read."""
        code = self._told.get()
        begun = time.monotonic()
        while code is not None and not self._over.wait(TICK):
            limit = PATIENCE + CLOSING if _closes(threading.main_thread().ident) else PATIENCE
            if time.monotonic() - begun > limit and not (takes(sys.stdout) and takes(sys.stderr)):
                _leave(code)


def _closes(thread: int | None) -> bool:
    """Return whether a thread is in an output's ``close``, where it must not be cut short."""
    frame = None if thread is None else sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "close" and frame.f_globals.get("__name__", "").startswith(OUTPUTS):
            return True
        frame = frame.f_back
    return False


def _leave(code: int) -> NoReturn:
    """End this process at once with an exit code, without unwinding anything."""
    with contextlib.suppress(OSError):  # the terminal is gone
        if os.isatty(2) and takes(sys.stderr):
            os.write(2, b"\x1b[?25h\n")  # a status line hides the cursor
    os._exit(code)
