"""Heartbeats: how a worker tells the supervisor, twice a second, what each of its stages is doing."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from ...errors import UsageError
from ...sources.calls import CALLS

__all__ = ["INTERVAL", "VARIABLE", "Beat", "Heartbeat", "Phase", "Reading"]

VARIABLE = "HYBRID_EDGE_HEARTBEAT"  # the file descriptor of the pipe, in the worker's environment
INTERVAL = 0.5  # seconds
START = "start"  # the one stage there is before frames flow

Phase = Literal["starting", "running", "stopping"]


@dataclass(frozen=True)
class Beat:
    """One heartbeat, a JSON line on the pipe.

    Attributes:
        phase: ``starting`` until the pipeline runs, ``stopping`` once it ended.
        busy: for how many seconds each stage has been in its current call, 0 where it waits; and each call into a
            driver or decoder of a source (``sources.calls``), in all phases.
        counts: what was counted so far, for the status line.
    """

    phase: Phase
    busy: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)

    def line(self) -> bytes:
        """The line, with its end."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Beat | None:
        """The heartbeat of a line; None where a worker was killed while it wrote."""
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError):
            return None


Reading = Callable[[], tuple[Mapping[str, float], Mapping[str, float]]]
"""What a running pipeline is asked for: seconds that each stage has been busy, and counts."""


class Heartbeat:
    """The worker's side: a thread of its own writes beats, for as long as it gets the interpreter.

    Where the supervisor is gone, the thread ends this process and those that it started.

    Args:
        pipe: a file descriptor, taken over; a worker that is not read from loses beats and is not held up.
        interval: seconds between two beats.
    """

    def __init__(self, pipe: int, interval: float = INTERVAL) -> None:
        self._pipe = pipe
        self._interval = interval
        self._phase: Phase = "starting"
        self._progress = time.monotonic()
        self._reading: Reading = self._starting
        self._changed = threading.Event()
        os.set_inheritable(pipe, False)
        os.set_blocking(pipe, False)
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Heartbeat | None:
        """The heartbeat that a supervisor asked for, or None where this process is nobody's worker.

        The variable is taken out, so that no process started from here takes itself for the worker.

        Raises:
            UsageError: the variable names something other than an open pipe.
        """
        value = environment.pop(VARIABLE, None)
        if value is None:
            return None
        try:
            mode = os.fstat(int(value)).st_mode
        except (ValueError, OSError) as error:
            raise UsageError(f"{VARIABLE}: expected an open file descriptor, found {value!r}; unset it") from error
        if not stat.S_ISFIFO(mode):
            raise UsageError(f"{VARIABLE}: expected a pipe, found another kind of file at {value}; unset it")
        return cls(int(value))

    def progress(self) -> None:
        """Something went on while starting: an engine's build made a step."""
        self._progress = time.monotonic()

    def running(self, reading: Reading) -> None:
        """Frames flow from here on; ``reading`` is called from the heartbeat's thread."""
        self._reading = reading
        self._enter("running")

    def stopping(self) -> None:
        """The pipeline ended; what is left is to give back what was taken."""
        self._reading = _nothing
        self._enter("stopping")

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._changed.set()

    def _starting(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        return {START: time.monotonic() - self._progress}, {}

    def _run(self) -> None:
        while True:
            stages, counts = self._reading()
            busy = {name: round(seconds, 2) for name, seconds in {**stages, **CALLS.busy()}.items()}
            self._write(Beat(self._phase, busy, counts).line())
            self._changed.wait(self._interval)
            self._changed.clear()

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._pipe, line)
        except BlockingIOError:  # nobody reads: the supervisor is stopped, by Ctrl-Z say
            return
        except OSError:  # nobody ever will
            if os.getpgrp() == os.getpid():
                os.killpg(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def _nothing() -> tuple[Mapping[str, float], Mapping[str, float]]:
    return {}, {}
