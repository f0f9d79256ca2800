"""Handles SIGINT, SIGTERM and SIGHUP: the first signal asks for the end, the second ends the process at once."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from ..ending import STOP_SIGNALS, end_at_second_signal, leave_at_once, takes

END_TIMEOUT = 2.5  # seconds from a signal to the end: the pipeline drains for 1.8, and then closes its outputs
OUTPUTS_TIMEOUT = 3.0  # seconds more, while outputs are being closed: a disk may be slow
RECHECK_INTERVAL = 0.1  # seconds between two looks at whether the end is held up


def asked_for(*signals: signal.Signals) -> set[signal.Signals]:
    """Return the signals that whoever started this process did not have ignored (nohup, a shell's ``&``)."""
    return {item for item in signals if signal.getsignal(item) is not signal.SIG_IGN}


class StopSignals:
    """Handles the signals from its making on, on the main thread, in a process that ends with its run.

    Before frames flow a signal ends what is being done by an exception; while they flow (``draining``) it sets an
    event, and the pipeline finishes what is in the model. A second signal ends the process there and then; so does a
    timer where whoever does not read stdout or stderr holds up the end. ``codes`` has the exit code for each signal.
    """

    def __init__(self, codes: Mapping[int, int]) -> None:
        self._codes = codes
        self._code: int | None = None  # that of the first signal that came
        self._came = 0.0  # when it came, ``time.monotonic()`` seconds
        self._stop = threading.Event()
        self._draining = False
        self._closing: Callable[[], bool] = lambda: False
        for item in asked_for(*STOP_SIGNALS):
            signal.signal(item, self._handle)
        end_at_second_signal(codes)
        signal.signal(signal.SIGALRM, self._end_if_unread)
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # later on, it would end the process by itself
        # a supervisor starts its worker with these held back until they are handled
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, signal.SIGTSTP})

    @contextmanager
    def draining(self, closing: Callable[[], bool]) -> Iterator[threading.Event]:
        """Yield the event that the first signal sets, without raising anything, within this context.

        ``closing`` returns whether outputs are being closed, which may take longer.
        """
        self._closing, self._draining = closing, True
        try:
            yield self._stop
        finally:
            self._draining = False

    def leave(self) -> None:
        """Raise what the signal that came asks for, KeyboardInterrupt or SystemExit; do nothing where none came."""
        if self._code is not None:
            raise KeyboardInterrupt if self._code == self._codes[signal.SIGINT] else SystemExit(self._code)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self._code is not None:
            leave_at_once(self._code)
        self._code, self._came = self._codes[signum], time.monotonic()
        self._stop.set()
        # its handler runs within a write of the main thread too, which goes on where the handler returns
        signal.setitimer(signal.ITIMER_REAL, END_TIMEOUT, RECHECK_INTERVAL)
        if not self._draining:
            self.leave()

    def _end_if_unread(self, _signum: int, _frame: FrameType | None) -> None:
        limit = END_TIMEOUT + OUTPUTS_TIMEOUT if self._closing() else END_TIMEOUT
        late = time.monotonic() - self._came >= limit
        if late and self._code is not None and not takes(sys.stdout, sys.stderr):
            leave_at_once(self._code)
