"""Runs another program for a limited time and with limited output, and says how it ended; it never raises for that."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

MAX_OUTPUT = 2**16  # bytes that are kept, the last ones: a tool may write for as long as it runs
LEFT_SECONDS = 1.0  # for the rest of the output once the program is gone; a child of its own may hold the pipe open


@dataclass(frozen=True)
class Ended:
    """How a program ended: all that it wrote last, and ``failure``, a few words where it did not end with exit 0.

    ``killed`` is the signal that ended it, such as ``SIGSEGV``, or ``hung`` where the time was over; else empty.
    """

    output: str
    failure: str | None = None
    killed: str = ""


def run_bounded(command: Sequence[str], seconds: float, changes: Mapping[str, str] | None = None) -> Ended:
    """Run a program to its end, or for ``seconds``; its stdout and stderr come back as one text.

    ``changes`` are variables of its environment. The program has a session of its own, which is killed as a whole.
    """
    try:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter, and tools named in this room
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(changes or {})},
        )
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        return Ended("", f"can't be started: {error}")
    kept = bytearray()
    reader = threading.Thread(target=_keep_last, args=(process.stdout, kept), daemon=True)
    reader.start()
    try:
        code: int | None = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    reader.join(LEFT_SECONDS)
    output = bytes(kept).decode(errors="replace")
    if code is None:
        return Ended(output, f"no end within {seconds:g} s", "hung")
    if code < 0:
        name = _signal_name(-code)
        return Ended(output, f"ended by {name}", name)
    return Ended(output, None if code == 0 else f"exit code {code}")


def _keep_last(stream: IO[bytes], kept: bytearray) -> None:
    with contextlib.suppress(OSError, ValueError):
        while chunk := os.read(stream.fileno(), MAX_OUTPUT):
            kept += chunk
            del kept[:-MAX_OUTPUT]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
