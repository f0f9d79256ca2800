"""Sends and parses heartbeats, by which a worker tells the supervisor twice a second what each stage is doing."""

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

from ..errors import UsageError
from ..sources.blocking import BLOCKING_CALLS

__all__ = ["INTERVAL", "VARIABLE", "Beat", "Heartbeat", "Phase", "Reading"]

VARIABLE = "HYBRID_EDGE_HEARTBEAT"  # in the worker's environment it has the number of the pipe's file descriptor
INTERVAL = 0.5  # seconds between two beats
START = "start"  # the name of the only stage that there is before frames flow

Phase = Literal["starting", "running", "stopping"]


@dataclass(frozen=True)
class Beat:
    """This class holds one heartbeat, which is a JSON line on the pipe.

    Attributes:
        phase: ``starting`` until the pipeline runs, ``stopping`` once it ended.
        busy: for how many seconds each stage has been in its current call, 0 where it waits; and each call into a
            driver or decoder of a source (``sources.blocking``), in all phases.
        counts: what was counted so far, by name, for ``systemctl status``.
    """

    phase: Phase
    busy: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)

    def line(self) -> bytes:
        """Return the heartbeat as a line, with its line end."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Beat | None:
        """Read a heartbeat from a line; return None where a worker was killed while it wrote."""
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError):
            return None


Reading = Callable[[], tuple[Mapping[str, float], Mapping[str, float]]]
"""What a running pipeline is asked for: seconds that each stage has been busy, and counts."""


class Heartbeat:
    """Writes the worker's beats on a thread of its own, for as long as the thread gets the interpreter.

    Where the supervisor is gone, the thread ends this process and those that it started.

    Args:
        pipe: the pipe's file descriptor, owned from now on; a pipe that nobody reads loses beats and holds nobody up.
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
        """Start the heartbeat that a supervisor asked for; return None where this process is nobody's worker.

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
        """Note progress while starting, such as a step of an engine's build."""
        self._progress = time.monotonic()

    def running(self, reading: Reading) -> None:
        """Note that frames flow from here on; the heartbeat's thread calls ``reading`` for each beat."""
        self._reading = reading
        self._enter("running")

    def stopping(self) -> None:
        """Note that the pipeline ended, and only engine, memory and files are left to give back."""
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
            busy = {name: round(seconds, 2) for name, seconds in {**stages, **BLOCKING_CALLS.busy()}.items()}
            self._write(Beat(self._phase, busy, counts).line())
            self._changed.wait(self._interval)
            self._changed.clear()

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._pipe, line)
        except BlockingIOError:  # nobody reads now: the supervisor is stopped, by Ctrl-Z say
            return
        except OSError:  # nobody will ever read: the supervisor is gone
            if os.getpgrp() == os.getpid():
                os.killpg(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def _nothing() -> tuple[Mapping[str, float], Mapping[str, float]]:
    return {}, {}
