"""Sends the worker's heartbeats, and ends them where a call of the worker lasts for too long.

worker:  a beat twice a second, and a last one that says why once anything is overdue
parent:  a last beat, or none within what the one before allows ──► the worker is killed and replaced
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..ending import takes
from ..sources.blocking import BLOCKING_CALLS

WORKER = "HYBRID_EDGE_WORKER"  # in a worker's environment: its socket's descriptor, and how many workers were before
SOURCE_TIMEOUT = 30.0  # seconds for one call of a source into a driver or decoder, which has shorter limits of its own
SILENCE_TIMEOUT = 5.0  # seconds between beats while frames flow; a C call that holds the interpreter silences them
START_TIMEOUT = 900.0  # seconds without progress before frames flow: a step of an engine's build can take minutes
BEAT_INTERVAL = 0.5  # seconds between two beats
STOPPED_TIME = 1.5  # seconds without a turn after which this process as a whole was stopped, by Ctrl-Z say
MAX_NAME = 500  # characters of a call that are told: a GStreamer pipeline may be longer than a message
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Phase = Literal["starting", "running", "stopping"]
Readings = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Beat:
    """One heartbeat, a JSON object in a message of its own."""

    phase: Phase  # ``starting`` until the pipeline runs, ``stopping`` once it ended
    within: float  # seconds within which the next beat comes, unless the worker hangs
    counts: Mapping[str, float] = field(default_factory=dict)  # what was counted so far, for ``systemctl status``
    overdue: str = ""  # why the worker hangs and no beat follows
    seconds: float = 0.0  # for how long it has hung
    source: bool = False  # whether that is a source's fault, and not the engine's or an output's


class Heartbeat:
    """Sends the worker's beats on a thread of its own, for as long as the thread gets the interpreter.

    Where nobody receives them, beats are lost and nobody is held up. ``hang_timeout`` is the limit in seconds of one
    call of a stage, and of the time from the end of the frames to the worker's own. ``replaced`` is how many workers
    were given up before this one.
    """

    def __init__(self, channel: socket.socket, hang_timeout: float, replaced: int = 0) -> None:
        self.replaced = replaced
        self._channel = channel
        self._hang_timeout = hang_timeout
        self._stages: Readings = dict
        self._counts: Readings = dict
        self._lock = threading.Lock()  # held for a beat: one of the phase before must not come after a phase's first
        self._awake = float("-inf")  # when this process last went on after a stop, ``time.monotonic()`` seconds
        channel.setblocking(False)
        self._enter("starting", START_TIMEOUT, "it made no progress while it started")
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    @classmethod
    def from_environment(cls, hang_timeout: float) -> Heartbeat | None:
        """Start the heartbeat that a supervisor asked for; return None where this process is nobody's worker.

        The variable is taken out, so that no process started from here takes itself for the worker. The kernel is asked
        to end this process with its supervisor: a worker that hangs would not see that by itself.
        """
        told = os.environ.pop(WORKER, None)
        if told is None:
            return None
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        descriptor, replaced = map(int, told.split())
        os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=descriptor), hang_timeout, replaced)

    def progress(self) -> None:
        """Note progress while starting, such as a step of an engine's build."""
        self._since = time.monotonic()

    def running(self, stages: Readings, counts: Readings) -> None:
        """Note that frames flow from here on. Both functions are called before each beat.

        ``stages`` returns for how many seconds each stage has been in its current call, ``counts`` what was counted so
        far.
        """
        self._stages, self._counts = stages, counts
        self._enter("running", min(SILENCE_TIMEOUT, self._hang_timeout), "")

    def stopping(self) -> None:
        """Note that the pipeline ended, and only engine, memory and files are left to give back."""
        self._stages = self._counts = dict
        self._enter("stopping", self._hang_timeout, "it was done and did not end")

    def _enter(self, phase: Phase, within: float, stuck: str) -> None:
        self.progress()
        self._phase = phase, within, stuck
        self._beat()  # what comes next may not leave the interpreter to the thread

    def _run(self) -> None:
        turn, goes_on = time.monotonic(), True
        while goes_on:
            before, turn = turn, time.monotonic()
            if turn - before > STOPPED_TIME:
                self._awake = turn  # what is under way was stopped too, and its time begins anew
            goes_on = self._beat()
            time.sleep(BEAT_INTERVAL)

    def _beat(self) -> bool:
        """Send one beat; return False where it is the last one."""
        with self._lock:
            phase, within, _ = self._phase
            overdue = next(self._overdue(), ())
            if phase != "stopping" and not takes(sys.stdout, sys.stderr):
                overdue = ()  # a stage that waits for whoever reads is not hung
            try:
                self._channel.send(json.dumps(vars(Beat(phase, within, self._counts(), *overdue))).encode())
            except ConnectionError:  # the supervisor was gone before the kernel knew of its worker
                os._exit(1)
            except OSError:  # nobody receives now: the supervisor is stopped, by Ctrl-Z say
                pass
        return not overdue

    def _overdue(self) -> Iterator[tuple[str, float, bool]]:
        """Yield ``overdue``, ``seconds`` and ``source`` of a ``Beat`` for each call that has lasted for too long."""
        _, within, stuck = self._phase
        now, calls, stages = time.monotonic(), BLOCKING_CALLS.busy(), self._stages()
        # what may hang, the seconds that it has lasted, their limit, and a hint
        watched = [
            (f"a source's call, {name[:MAX_NAME]}, has not returned", calls[name], SOURCE_TIMEOUT, "") for name in calls
        ]
        remedy = "; a slower engine needs a larger --hang-timeout"
        watched += [(f"stage {name} has been in one call", stages[name], self._hang_timeout, remedy) for name in stages]
        watched += [(stuck, now - self._since, within, "")] if stuck else []
        for number, (what, lasted, limit, hint) in enumerate(watched):
            if (seconds := min(lasted, now - self._awake)) > limit:
                yield f"{what} for {seconds:.1f} s (limit {limit:g} s{hint})", seconds, number < len(calls)
