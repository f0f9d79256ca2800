"""Starts the worker, hears its heartbeats, and replaces it where it falls silent or crashes.

this process ── command line, signals ──► worker, in a session of its own, so that SIGKILL reaches all it started
this process ◄── heartbeats, exit code ── worker
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..sources.events import Event
from .heartbeat import HANG_TIMEOUT, START_TIMEOUT, VARIABLE, Beat
from .notify import Notifier
from .signals import stop_signals, takes

__all__ = ["REPLACED", "Supervisor"]

REPLACED = "HYBRID_EDGE_REPLACED"  # in a worker's environment it says how many workers there were before
LOOK_INTERVAL = 0.1  # seconds, at most, until a signal or the worker's end is seen
KILL_TIMEOUT = 5.0  # seconds from SIGKILL to the worker's end; only a call that hangs inside a driver takes longer
MAX_FAILURES = 3  # workers given up within a minute or, where hangs take longer to notice, within six of their timeouts
PIPE_BYTES = 1 << 16


class Worker:
    """Starts a child in a session of its own, which makes its children one group with it, and reads its heartbeats.

    The child's stdout and stderr are this process's; it reads nothing from stdin, and systemd hears nothing of it.

    Raises:
        OSError: the child can't be started.
    """

    def __init__(self, command: Sequence[str], replaced: int) -> None:
        self._beats, theirs = os.pipe()
        os.set_blocking(self._beats, False)
        environment = {**os.environ, VARIABLE: str(theirs), REPLACED: str(replaced)}
        environment.pop("NOTIFY_SOCKET", None)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # this very program
                command, stdin=subprocess.DEVNULL, env=environment, pass_fds=(theirs,), start_new_session=True
            )
        except BaseException:
            os.close(self._beats)
            raise
        finally:
            os.close(theirs)
        self.pid = self._process.pid

    def wait(self, seconds: float) -> list[Beat]:
        """Wait for heartbeats, at most so many seconds, and return those that came; the first one ends the wait."""
        select.select([self._beats], [], [], seconds)
        try:
            data = os.read(self._beats, PIPE_BYTES)
        except BlockingIOError:
            return []
        if not data:  # the child has closed the pipe, and is about to end
            time.sleep(seconds)
        return [Beat(**json.loads(line)) for line in data.splitlines()]

    def code(self) -> int | None:
        """Return the child's exit code, or minus the number of the signal that ended it; None while it runs."""
        if self._process.returncode is None:
            # the child is not reaped yet, so that its id still stands for its group and for nothing else
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.send(signal.SIGKILL, group=True)
            self._process.wait()
        return self._process.returncode

    def send(self, signum: int, *, group: bool = False) -> None:
        """Send a signal to the child, or to all that it started too; do nothing where it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, signum)

    def end(self) -> bool:
        """End the child and all that it started with SIGKILL; return False where a call in a driver keeps it."""
        deadline = time.monotonic() + KILL_TIMEOUT
        self.send(signal.SIGKILL, group=True)
        while self.code() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._beats >= 0:
            os.close(self._beats)
            self._beats = -1
        return self.code() is not None


@dataclass
class Supervisor:
    """Runs one worker after the other until one ends by itself, a signal comes, or too many had to be replaced.

    It loads neither OpenCV nor an engine, and never waits for whoever reads stdout or stderr.

    Attributes:
        command: the worker's command line.
        codes: the exit codes by which a stop through SIGINT, SIGTERM or SIGHUP is told.
        say: called with what happens, a line at a time.
        report: called with an event for each worker that was given up.
        hang_timeout: seconds that a worker's stage may take for one call.
        replaces: False where a new worker would repeat what the old one did (files): the first fault ends the run.
        grace: seconds from a signal to the worker's end.
    """

    command: Sequence[str]
    codes: Mapping[int, int]
    say: Callable[[str], None]
    report: Callable[[Event], None]
    hang_timeout: float = HANG_TIMEOUT
    replaces: bool = True
    grace: float = 2.0
    _notifier: Notifier = field(default_factory=Notifier, init=False)
    _failures: deque[float] = field(default_factory=deque, init=False)
    _replaced: int = field(default=0, init=False)
    _ready: bool = field(default=False, init=False)
    _stop_code: int | None = field(default=None, init=False)  # the exit code, once a signal came
    _deadline: float = field(default=0.0, init=False)

    def run(self) -> int:
        """Supervise until the end; no process that was started is left then.

        Returns:
            The exit code: the worker's own, the one for the signal that came, or 1 after too many replacements.

        Raises:
            OSError: a worker can't be started.
        """
        # the signals are held back and asked for, so that none passes by a worker that is just being started
        self._signals = {*stop_signals(), signal.SIGTSTP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            self._start()
            return self._watch()
        finally:
            self._notifier.close()
            while signal.sigtimedwait(self._signals, 0):
                pass  # it asks for an end that is here already
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _watch(self) -> int:
        code = None
        try:
            while code is None:
                code = self._look()
        finally:
            self._worker.end()
        return code

    def _start(self) -> None:
        self._worker = Worker(self.command, self._replaced)
        self._hear(Beat("starting", START_TIMEOUT))

    def _look(self) -> int | None:
        """Look once at beats, signals and the worker; return the exit code where the run ends, else None."""
        for beat in self._worker.wait(LOOK_INTERVAL):
            self._hear(beat)
        self._notifier.alive()
        while (signalled := signal.sigtimedwait(self._signals, 0)) is not None:
            if signalled.si_signo != signal.SIGTSTP and self._stop_code is not None:
                return self._stop_code  # the second signal ends everything at once
            self._pass_on(signalled.si_signo)
        code, silent = self._worker.code(), time.monotonic() - self._heard
        if self._stop_code is not None:
            return self._stop_code if code is not None else self._draining(self._stop_code)
        if code is not None and code < 0:
            name = {item.value: item.name for item in signal.Signals}.get(-code, f"signal {-code}")
            return self._give_up(f"it was ended by {name}", 0.0)
        if code is None and self._beat.overdue:
            return self._give_up(self._beat.overdue, self._beat.seconds, source=self._beat.source)
        if code is None and silent > self._beat.within:
            return self._give_up(
                f"no heartbeat for {silent:.1f} s: a call into C keeps the interpreter to itself", silent
            )
        return code

    def _hear(self, beat: Beat) -> None:
        self._beat, self._heard = beat, time.monotonic()
        if beat.phase == "running" and not self._ready:
            self._ready = True
            self._notifier.ready()
        counts = ", ".join(f"{name} {value:g}" for name, value in beat.counts.items())
        self._notifier.status(f"{beat.phase}{': ' if counts else ''}{counts}; workers replaced {self._replaced}")

    def _pass_on(self, signum: int) -> None:
        if signum == signal.SIGTSTP:  # Ctrl-Z, which the terminal sends to this process alone
            self._worker.send(signal.SIGSTOP, group=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._worker.send(signal.SIGCONT, group=True)
            self._heard = time.monotonic()
            return
        self._stop_code = self.codes.get(signum, 1)
        self._deadline = time.monotonic() + self.grace
        self._notifier.stopping()
        self._worker.send(signum)

    def _draining(self, code: int) -> int | None:
        if time.monotonic() < self._deadline:
            return None
        self._tell(f"the worker did not stop within {self.grace:g} s and was killed")
        return code

    def _give_up(self, reason: str, seconds: float, *, source: bool = False) -> int | None:
        """Kill the worker, say why, and start another; return 1 where that can't be done or is not worth it."""
        if not self._worker.end():
            self._tell(
                f"error: the worker hangs ({reason}) and SIGKILL does not end process {self._worker.pid}: "
                "a driver holds it; restart the device"
            )
            return 1
        now, window = time.monotonic(), max(60.0, 6 * self.hang_timeout)
        if not source:  # a camera whose driver hangs is tried again for ever, like one that is gone
            self._failures.append(now)
        while self._failures and now - self._failures[0] > window:
            self._failures.popleft()
        if takes(sys.stdout):
            self.report(Event("engine-hung", "", f"worker given up: {reason}", time.time(), seconds))
        if not self.replaces:
            self._tell(f"error: the worker was given up: {reason}")
            return 1
        if len(self._failures) >= MAX_FAILURES:
            self._tell(
                f"error: {len(self._failures)} workers had to be given up within {window:g} s, the last because "
                f"{reason}; try another --backend, or --hang-timeout where the engine is only slow"
            )
            return 1
        self._replaced += 1
        self._tell(f"worker given up: {reason}; starting another")
        self._start()
        return None

    def _tell(self, text: str) -> None:
        if takes(sys.stderr):
            self.say(text)
