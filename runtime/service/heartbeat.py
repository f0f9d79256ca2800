"""Sends the worker's heartbeats, and ends them where a call of the worker lasts for too long.

worker:  a beat twice a second, and a last one that says why once anything is overdue
parent:  a last beat, or none within what the one before allows ──► the worker is killed and replaced
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from ..sources.blocking import BLOCKING_CALLS
from .signals import takes

VARIABLE = "HYBRID_EDGE_HEARTBEAT"  # in the worker's environment it has the number of the pipe's file descriptor
SOURCE_TIMEOUT = 30.0  # seconds for one call of a source into a driver or decoder, which has shorter limits of its own
SILENCE_TIMEOUT = 5.0  # seconds between beats while frames flow; a C call that holds the interpreter silences them
START_TIMEOUT = 900.0  # seconds without progress before frames flow: a step of an engine's build can take minutes
BEAT_INTERVAL = 0.5  # seconds between two beats
STOPPED_TIME = 1.5  # seconds without a turn after which this process as a whole was stopped, by Ctrl-Z say
MAX_NAME = 500  # characters of a call that are told: a pipe takes a short line as a whole or not at all
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Phase = Literal["starting", "running", "stopping"]
Readings = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Beat:
    """One heartbeat, a JSON line on the pipe.

    Attributes:
        phase: ``starting`` until the pipeline runs, ``stopping`` once it ended.
        within: the seconds within which the next beat comes, unless the worker hangs.
        counts: what was counted so far, by name, for ``systemctl status``.
        overdue: why the worker hangs and no beat follows; empty otherwise.
        seconds: for how long it has hung.
        source: whether that is a source's fault, and not the engine's or an output's.
    """

    phase: Phase
    within: float
    counts: Mapping[str, float] = field(default_factory=dict)
    overdue: str = ""
    seconds: float = 0.0
    source: bool = False


class Heartbeat:
    """Writes the worker's beats on a thread of its own, for as long as the thread gets the interpreter.

    Where nobody reads the pipe, beats are lost and nobody is held up. ``hang_timeout`` is the limit in seconds of one
    call of a stage, and of the time from the end of the frames to the worker's own.
    """

    def __init__(self, pipe: int, hang_timeout: float) -> None:
        self._pipe = pipe
        self._hang_timeout = hang_timeout
        self._stages: Readings = dict
        self._counts: Readings = dict
        self._changed = threading.Event()
        self._enter("starting")
        os.set_inheritable(pipe, False)
        os.set_blocking(pipe, False)
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    @classmethod
    def from_environment(
        cls, hang_timeout: float, environment: MutableMapping[str, str] = os.environ
    ) -> Heartbeat | None:
        """Start the heartbeat that a supervisor asked for; return None where this process is nobody's worker.

        The variable is taken out, so that no process started from here takes itself for the worker. The kernel is asked
        to end this process with its supervisor: a worker that hangs would not see that by itself.
        """
        pipe = environment.pop(VARIABLE, None)
        if pipe is None:
            return None
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return cls(int(pipe), hang_timeout)

    def progress(self) -> None:
        """Note progress while starting, such as a step of an engine's build."""
        self._since = time.monotonic()

    def running(self, stages: Readings, counts: Readings) -> None:
        """Note that frames flow from here on. Both functions are called before each beat.

        ``stages`` returns for how many seconds each stage has been in its current call, ``counts`` what was counted so
        far.
        """
        self._stages, self._counts = stages, counts
        self._enter("running")

    def stopping(self) -> None:
        """Note that the pipeline ended, and only engine, memory and files are left to give back."""
        self._stages = self._counts = dict
        self._enter("stopping")

    def _enter(self, phase: Phase) -> None:
        self._since = time.monotonic()
        self._phase = phase
        self._changed.set()

    def _run(self) -> None:
        beat, awake, turn = None, 0.0, time.monotonic()
        while beat is None or not beat.overdue:
            self._changed.clear()
            before, turn = turn, time.monotonic()
            if turn - before > STOPPED_TIME:
                awake = turn  # what is under way was stopped too, and its time begins anew
            beat = self._beat(turn, awake)
            self._write(json.dumps(asdict(beat)).encode() + b"\n")
            self._changed.wait(BEAT_INTERVAL)

    def _beat(self, now: float, awake: float) -> Beat:
        phase, most = self._phase, now - awake
        since = min(now - self._since, most)
        stages = {name: min(seconds, most) for name, seconds in self._stages().items()}
        calls = {name: min(seconds, most) for name, seconds in BLOCKING_CALLS.busy().items()}
        silence = min(SILENCE_TIMEOUT, self._hang_timeout)
        within = {"starting": START_TIMEOUT, "running": silence, "stopping": self._hang_timeout}[phase]
        overdue = find_overdue(phase, since, stages, calls, self._hang_timeout)
        if phase != "stopping" and not (takes(sys.stdout) and takes(sys.stderr)):
            overdue = "", 0.0, False  # a stage that waits for whoever reads is not hung
        return Beat(phase, within, self._counts(), *overdue)

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._pipe, line)
        except BlockingIOError:  # nobody reads now: the supervisor is stopped, by Ctrl-Z say
            return
        except OSError:  # nobody will ever read: the supervisor was gone before the kernel knew of its worker
            os._exit(1)


def find_overdue(
    phase: Phase, since: float, stages: Mapping[str, float], calls: Mapping[str, float], hang_timeout: float
) -> tuple[str, float, bool]:
    """Return ``overdue``, ``seconds`` and ``source`` of a ``Beat``; every argument but the phase is in seconds.

    ``since`` is how long the worker has been in its phase; while it starts, since its last progress. ``stages`` and
    ``calls`` say how long each stage has been in one call, and each call of a source has lasted.
    """
    watched = [
        (f"a source's call, {name[:MAX_NAME]}, has not returned", calls[name], SOURCE_TIMEOUT, "") for name in calls
    ]
    remedy = "; a slower engine needs a larger --hang-timeout"
    watched += [(f"stage {name} has been in one call", stages[name], hang_timeout, remedy) for name in stages]
    if phase == "starting":
        watched.append(("it made no progress while it started", since, START_TIMEOUT, ""))
    if phase == "stopping":
        watched.append(("it was done and did not end", since, hang_timeout, ""))
    for number, (what, seconds, limit, hint) in enumerate(watched):
        if seconds > limit:
            return f"{what} for {seconds:.1f} s (limit {limit:g} s{hint})", seconds, number < len(calls)
    return "", 0.0, False
