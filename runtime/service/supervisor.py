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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..sources.events import Event
from .heartbeat import START_TIMEOUT, VARIABLE, Beat
from .notify import Notifier
from .signals import STOP_SIGNALS, asked_for, takes

REPLACED = "HYBRID_EDGE_REPLACED"  # in a worker's environment it says how many workers there were before
TURN_INTERVAL = 0.1  # seconds, at most, until a signal or the worker's end is seen
STOP_TIMEOUT = 2.0  # seconds from a signal to the worker's end
SIGKILL_TIMEOUT = 5.0  # seconds from SIGKILL to the worker's end; only a call that hangs inside a driver takes longer
MAX_GIVEN_UP = 3  # workers given up within a minute or, where hangs take longer to notice, within six of their timeouts
PIPE_BYTES = 1 << 16


class _Worker:
    """A child in a session of its own, which makes one process group of it and all that it starts; and its heartbeats.

    It shares stdout and stderr with this process, reads nothing from stdin, and tells systemd nothing.
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
        self.send = self._process.send_signal

    def wait(self, seconds: float) -> list[Beat]:
        """Return the heartbeats that come within so many seconds; the first one ends the wait."""
        select.select([self._beats], [], [], seconds)
        try:
            data = os.read(self._beats, PIPE_BYTES)
        except BlockingIOError:
            return []
        if not data:  # the child has closed the pipe, and is about to end
            time.sleep(seconds)
        return [Beat(**json.loads(line)) for line in data.splitlines()]

    def send_group(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signum)

    def code(self) -> int | None:
        """Return the child's exit code, or minus the number of the signal that ended it; None while it runs."""
        code = self._process.poll()
        if code is not None:
            self.send_group(signal.SIGKILL)  # what it left; while anything is, the group's number is nobody else's
        return code

    def end(self) -> bool:
        """End the child and all that it started with SIGKILL; return False where a call in a driver keeps it."""
        self.send_group(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SIGKILL_TIMEOUT)
        if self._beats >= 0:
            os.close(self._beats)
            self._beats = -1
        return self.code() is not None


@dataclass
class Supervisor:
    """Runs one worker after the other until one ends by itself, a signal comes, or too many had to be replaced.

    It loads neither OpenCV nor an engine, and never waits for whoever reads stdout or stderr.

    Attributes:
        codes: the exit codes by which a stop through SIGINT, SIGTERM or SIGHUP is told.
        say: called with what happens, a line at a time.
        report: called with an event for each worker that was given up.
        hang_timeout: seconds that a worker's stage may take for one call.
        replaces: False where a new worker would repeat what the old one did (files): the first fault ends the run.
    """

    command: Sequence[str]
    codes: Mapping[int, int]
    say: Callable[[str], None]
    report: Callable[[Event], None]
    hang_timeout: float
    replaces: bool = True

    def run(self) -> int:
        """Supervise until the end, when no process that was started is left; return the exit code.

        It is the worker's own, the one for the signal that came, or 1 after too many replacements. Raises OSError where
        a worker can't be started.
        """
        self._notifier = Notifier()
        self._failures: list[float] = []
        self._replaced = 0
        self._ready = False
        self._stop_code: int | None = None  # the exit code, once a signal came
        # the signals are held back and asked for, so that none passes by a worker that is just being started
        self._signals = asked_for(*STOP_SIGNALS, signal.SIGTSTP)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            self._start()
            try:
                while (code := self._look()) is None:
                    pass
                return code
            finally:
                self._worker.end()
        finally:
            self._notifier.close()
            while signal.sigtimedwait(self._signals, 0):
                pass  # it asks for an end that is here already
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start(self) -> None:
        self._worker = _Worker(self.command, self._replaced)
        self._hear(Beat("starting", START_TIMEOUT))

    def _look(self) -> int | None:
        """Look once at beats, signals and the worker; return the exit code where the run ends, else None."""
        for beat in self._worker.wait(TURN_INTERVAL):
            self._hear(beat)
        self._notifier.alive()
        while (signalled := signal.sigtimedwait(self._signals, 0)) is not None:
            if signalled.si_signo == signal.SIGTSTP:
                self._pause()
            elif self._stop_code is not None:
                return self._stop_code  # the second signal ends everything at once
            else:
                self._stop(signalled.si_signo)
        code, now = self._worker.code(), time.monotonic()
        if self._stop_code is not None:
            if code is None and now >= self._deadline:
                self._tell(f"the worker did not stop within {STOP_TIMEOUT:g} s and was killed")
            return self._stop_code if code is not None or now >= self._deadline else None
        if code is not None and code < 0:
            name = {item.value: item.name for item in signal.Signals}.get(-code, f"signal {-code}")
            return self._give_up(f"it was ended by {name}", 0.0)
        if code is None and self._beat.overdue:
            return self._give_up(self._beat.overdue, self._beat.seconds, source=self._beat.source)
        if code is None and (silent := now - self._heard) > self._beat.within:
            reason = f"no heartbeat for {silent:.1f} s: a call into C keeps the interpreter to itself"
            return self._give_up(reason, silent)
        return code

    def _hear(self, beat: Beat) -> None:
        self._beat, self._heard = beat, time.monotonic()
        if beat.phase == "running" and not self._ready:
            self._ready = True
            self._notifier.ready()
        counts = ", ".join(f"{name} {value:g}" for name, value in beat.counts.items())
        self._notifier.status(f"{beat.phase}{': ' if counts else ''}{counts}; workers replaced {self._replaced}")

    def _pause(self) -> None:
        """Stop the worker on Ctrl-Z, which the terminal sends to this process alone, then this process; later go on."""
        self._worker.send_group(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._worker.send_group(signal.SIGCONT)
        self._heard = time.monotonic()

    def _stop(self, signum: int) -> None:
        self._stop_code = self.codes.get(signum, 1)
        self._deadline = time.monotonic() + STOP_TIMEOUT
        self._notifier.stopping()
        self._worker.send(signum)

    def _give_up(self, reason: str, seconds: float, *, source: bool = False) -> int | None:
        """Kill the worker, say why, and start another; return 1 where that can't be done or is not worth it."""
        gone, now, window = self._worker.end(), time.monotonic(), max(60.0, 6 * self.hang_timeout)
        self._failures = [then for then in self._failures if now - then <= window]
        if not source:  # a camera whose driver hangs is tried again for ever, like one that is gone
            self._failures.append(now)
        if takes(sys.stdout):
            self.report(Event("engine-hung", "", f"worker given up: {reason}", time.time(), seconds))
        if not gone:
            self._tell(
                f"error: the worker hangs ({reason}) and SIGKILL does not end process {self._worker.pid}: "
                "a driver holds it; restart the device"
            )
        elif not self.replaces:
            self._tell(f"error: the worker was given up: {reason}")
        elif len(self._failures) >= MAX_GIVEN_UP:
            self._tell(
                f"error: {len(self._failures)} workers had to be given up within {window:g} s, the last because "
                f"{reason}; try another --backend, or --hang-timeout where the engine is only slow"
            )
        else:
            self._replaced += 1
            self._tell(f"worker given up: {reason}; starting another")
            self._start()
            return None
        return 1

    def _tell(self, text: str) -> None:
        if takes(sys.stderr):
            self.say(text)
