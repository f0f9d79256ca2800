"""SIGINT, SIGTERM and SIGHUP: the first asks for the end, the second has it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["STOPPING", "StopSignals", "asked_for"]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def asked_for(*signals: signal.Signals) -> frozenset[signal.Signals]:
    """Those of the signals that whoever started this process did not have ignored (nohup, a shell's ``&``)."""
    return frozenset(item for item in signals if signal.getsignal(item) is not signal.SIG_IGN)


class StopSignals:
    """Handlers for as long as the context lasts.

    Before frames flow a signal ends what is being done by an exception; while they flow (``draining``) it sets
    ``event``, and the pipeline finishes what is in the model. A second signal ends the process there and then.

    Args:
        codes: the exit code for each signal.

    Attributes:
        event: set once a signal came.
        code: its exit code, None before.
    """

    def __init__(self, codes: Mapping[int, int]) -> None:
        self.event = threading.Event()
        self.code: int | None = None
        self._codes = codes
        self._draining = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python lets no other set handlers
            for item in asked_for(*STOPPING):
                self._before[item] = signal.signal(item, self._handle)
            # a supervisor starts its worker with these held back until they are handled
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPPING, signal.SIGTSTP))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for item, handler in self._before.items():
            signal.signal(item, handler)

    @contextmanager
    def draining(self) -> Iterator[threading.Event]:
        """Within it the first signal sets the event that it yields, and raises nothing."""
        self._draining = True
        try:
            yield self.event
        finally:
            self._draining = False

    def leave(self) -> None:
        """Leave as the signal that came asks for; do nothing where none came.

        Raises:
            KeyboardInterrupt: the exit code is that of an interrupt.
            SystemExit: it is another.
        """
        if self.code == self._codes[signal.SIGINT]:
            raise KeyboardInterrupt
        if self.code is not None:
            raise SystemExit(self.code)

    def _handle(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002  # Python fixes the arguments
        if self.code is not None:
            if os.isatty(2):
                os.write(2, b"\x1b[?25h\n")  # a status line hides the cursor
            os._exit(self.code)
        self.code = self._codes.get(signum, 1)
        self.event.set()
        if not self._draining:
            self.leave()
