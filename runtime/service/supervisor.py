"""Starts the worker, watches its heartbeats, and replaces it where it hangs or crashes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..sources.events import Event
from .heartbeat import Beat
from .notify import Notifier
from .signals import STOPPING, asked_for
from .streams import takes
from .watch import Limits, Verdict, Watch
from .worker import Worker

__all__ = ["Supervisor"]

TICK = 0.1  # seconds, at most, until a signal or the worker's end is seen


class Supervisor:
    """Runs one worker after the other until one ends by itself, a signal comes, or too many had to be replaced.

    It loads neither OpenCV nor an engine, and never waits for whoever reads stdout or stderr.

    Args:
        command: the worker's command line.
        limits: what counts as hung.
        codes: the exit codes by which a stop through SIGINT, SIGTERM or SIGHUP is told.
        say: called with what happens, a line at a time.
        report: called with an event for each worker that was given up.
        replaces: False where a new worker would repeat what the old one did (files): the first fault ends the run.
        notifier: tells systemd that frames flow; None: one made from the environment.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        codes: Mapping[int, int],
        say: Callable[[str], None],
        report: Callable[[Event], None],
        limits: Limits | None = None,
        replaces: bool = True,
        notifier: Notifier | None = None,
    ) -> None:
        self._command = command
        self._codes = codes
        self._say = say
        self._report = report
        self._limits = limits or Limits()
        self._replaces = replaces
        self._notifier = notifier or Notifier()
        self._failures: deque[float] = deque()
        self._replaced = 0
        self._ready = False
        self._stopping: int | None = None  # the exit code, once a signal came
        self._deadline = 0.0

    def run(self) -> int:
        """Supervise until the end; no process that was started is left then.

        Returns:
            The exit code: the worker's own, the one for the signal that came, or 1 after too many replacements.

        Raises:
            OSError: a worker can't be started.
        """
        with _held(asked_for(*STOPPING, signal.SIGTSTP)) as pending:
            self._start()
            try:
                while True:
                    code = self._turn(pending)
                    if code is not None:
                        return code
            finally:
                self._worker.end(self._limits.kill)
                self._notifier.close()

    def _start(self) -> None:
        self._worker = Worker(self._command, self._replaced)
        self._watch = Watch(self._limits, time.monotonic())

    def _turn(self, pending: Callable[[], Iterator[int]]) -> int | None:
        """Look once at beats, signals and the worker; return the exit code where the run ends, else None."""
        for beat in self._worker.wait(TICK):
            self._hear(beat)
        self._notifier.alive()
        for signum in pending():
            code = self._signalled(signum)
            if code is not None:
                return code
        code = self._worker.code()
        if code is not None:
            return self._ended(code)
        if self._stopping is not None:
            return self._draining()
        blocked = not (takes(sys.stdout) and takes(sys.stderr))
        verdict = self._watch.verdict(time.monotonic(), blocked=blocked)
        return None if verdict is None else self._give_up(verdict)

    def _hear(self, beat: Beat) -> None:
        self._watch.hear(beat, time.monotonic())
        if beat.phase == "running" and not self._ready:
            self._ready = True
            self._notifier.ready()
        counts = ", ".join(f"{name} {value:g}" for name, value in beat.counts.items())
        self._notifier.status(f"{beat.phase}{': ' if counts else ''}{counts}; workers replaced {self._replaced}")

    def _signalled(self, signum: int) -> int | None:
        """Pass a signal on; return the exit code where it is the second that asks for the end."""
        if signum == signal.SIGTSTP:
            self._pause()
            return None
        if self._stopping is not None:
            return self._stopping
        self._stopping = self._codes.get(signum, 1)
        self._deadline = time.monotonic() + self._limits.grace
        self._notifier.stopping()
        self._worker.send(signum)
        return None

    def _pause(self) -> None:
        """On Ctrl-Z, stop the worker, which the terminal does not know, then this process; later continue both."""
        self._worker.send_group(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._worker.send_group(signal.SIGCONT)
        self._watch.resume(time.monotonic())

    def _draining(self) -> int | None:
        if time.monotonic() < self._deadline:
            return None
        self._tell(f"the worker did not stop within {self._limits.grace:g} s and was killed")
        return self._stopping

    def _ended(self, code: int) -> int | None:
        """Return the exit code after the worker ended by itself; where a signal ended it, give it up instead."""
        if self._stopping is not None:
            return self._stopping
        if code >= 0:
            return code
        return self._give_up(Verdict(f"it was ended by {_signal_name(-code)}", 0.0))

    def _give_up(self, verdict: Verdict) -> int | None:
        """Kill the worker, say why, and start another; return 1 where that can't be done or is not worth it."""
        if not self._worker.end(self._limits.kill):
            self._tell(
                f"error: the worker hangs ({verdict.reason}) and SIGKILL does not end process {self._worker.pid}: "
                "a driver holds it; restart the device"
            )
            return 1
        now = time.monotonic()
        if not verdict.source:
            self._failures.append(now)
        while self._failures and now - self._failures[0] > self._limits.window:
            self._failures.popleft()
        if takes(sys.stdout):
            self._report(Event("engine-hung", "", f"worker given up: {verdict.reason}", time.time(), verdict.seconds))
        if not self._replaces:
            self._tell(f"error: the worker was given up: {verdict.reason}")
            return 1
        if len(self._failures) >= self._limits.failures:
            self._tell(
                f"error: {len(self._failures)} workers had to be given up within {self._limits.window:g} s, the last "
                f"because {verdict.reason}; try another --backend, or --hang-timeout where the engine is only slow"
            )
            return 1
        self._replaced += 1
        self._tell(f"worker given up: {verdict.reason}; starting another")
        self._start()
        return None

    def _tell(self, text: str) -> None:
        if takes(sys.stderr):
            self._say(text)


@contextmanager
def _held(signals: frozenset[signal.Signals]) -> Iterator[Callable[[], Iterator[int]]]:
    """Hold signals back and yield what asks for them, so that none passes by a worker that is just being started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def pending() -> Iterator[int]:
        while (found := signal.sigtimedwait(signals, 0)) is not None:
            yield found.si_signo

    try:
        yield pending
    finally:
        list(pending())  # what still waits asks for an end that is here already
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
