"""Ends the process at its second signal, whatever it is doing: the first one asks, and Python hears it late or never.

A handler of Python runs when the interpreter's main thread is at Python's own code again, which a graph that loops in
an engine is not. Two ways lead to the end nevertheless: C code that lets go of the interpreter lets a thread count the
signals; for C code that keeps it, the kernel takes a signal's handler away when it is first called (SA_RESETHAND), and
the second one ends the process by default.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping
from typing import NoReturn, TextIO

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONCE = 0x80000000  # SA_RESETHAND of Linux's <bits/sigaction.h>


class _Action(ctypes.Structure):
    """glibc's and musl's ``struct sigaction`` on 64-bit machines."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_uint),
        ("restorer", ctypes.c_void_p),
    )


class _SecondSignal:
    """Counts the signals that come, on a thread of its own, from a pipe into which Python writes each at once."""

    def __init__(self) -> None:
        self.codes: Mapping[int, int] = {}
        self.first: int | None = None  # the signal that came first
        self._handlers: dict[int, _Action] = {}

    def start(self) -> None:
        """Begin to count; called on the main thread, it raises an OSError or RuntimeError where pipe or thread lack."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:  # the thread itself takes none: a supervisor holds them back, on its main thread alone
            threading.Thread(target=self._count, args=(reading,), name="signals", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def arm(self) -> None:
        """Let the kernel take each signal's present handler away when it is called."""
        for item in STOP_SIGNALS:
            if sys.platform == "linux" and signal.getsignal(item) not in (signal.SIG_DFL, signal.SIG_IGN):
                self._handlers[item] = action = _Action()
                libc = ctypes.CDLL(None)
                libc.sigaction(item, None, ctypes.byref(action))
                action.flags |= ONCE
                libc.sigaction(item, ctypes.byref(action), None)

    def _count(self, pipe: int) -> None:
        while came := os.read(pipe, 1):
            number = came[0]
            if number not in self.codes:
                continue
            if self.first is not None:
                leave_at_once(self.codes[self.first])
            self.first = number
            if number in self._handlers:  # the interpreter is free: this thread sees to the second one
                ctypes.CDLL(None).sigaction(number, ctypes.byref(self._handlers[number]), None)


_second_signal = _SecondSignal()


def end_at_second_signal(codes: Mapping[int, int] | None = None) -> None:
    """End this process at the second of SIGINT, SIGTERM and SIGHUP; call it again after handlers were changed.

    ``codes`` has the exit code for the signal that came first, by default 128 and its number; where the interpreter is
    held, the signal itself ends the process, for which a shell says the same number. Only the first call with no codes
    has an effect in a process that is not a command's.
    """
    if codes is None:
        with contextlib.suppress(OSError, RuntimeError):
            _second_signal.start()
        codes = {item: 128 + item for item in STOP_SIGNALS}
    elif not _second_signal.codes:
        return
    _second_signal.codes = codes
    _second_signal.arm()


def takes(*streams: TextIO) -> bool:
    """Return whether all streams take a line without waiting for a reader, who may be slow, or stopped by Ctrl-S."""
    try:
        return len(select.select([], streams, [], 0)[1]) == len(streams)
    except (TypeError, OSError, ValueError):  # one is missing, closed, or no file: it makes nobody wait
        return True


def leave_at_once(code: int) -> NoReturn:
    """End this process there and then, from any thread; the cursor is seen again on a terminal."""
    with contextlib.suppress(OSError, ValueError):  # the terminal is gone
        if sys.stderr.isatty() and takes(sys.stderr):
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # a status line hides the cursor
    os._exit(code)
