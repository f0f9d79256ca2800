"""Starts the worker, hears its heartbeats, and replaces it where it falls silent or crashes.

this process ── command line, signals ──► worker, in a session of its own, so that SIGKILL reaches all it started
this process ◄── heartbeats, exit code ── worker
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..ending import STOP_SIGNALS, takes
from ..sources.events import Event
from .heartbeat import BEAT_INTERVAL, START_TIMEOUT, WORKER, Beat
from .signals import asked_for

TURN_INTERVAL = 0.1  # seconds between two looks at signals, beats and the worker
STOP_TIMEOUT = 2.0  # seconds from a signal to the worker's end
SIGKILL_TIMEOUT = 5.0  # seconds from SIGKILL to the worker's end; only a call that hangs inside a driver takes longer
RESTART = 75  # exit code with which a worker asks for another in its place (EX_TEMPFAIL of sysexits.h)
MAX_GIVEN_UP = 3  # workers given up within a minute or, where hangs take longer to notice, within six of their timeouts
STATUS_PERIOD = 2.0  # seconds between two messages to systemd: people read them, in systemctl status


class Notifier:
    """Tells systemd how the service is, in datagrams (man sd_notify); without ``NOTIFY_SOCKET`` it does nothing.

    A message that can't be sent is not waited for, as no worker is given up because systemd did not listen: the next
    call sends it again.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # a leading @ stands for the null byte of an abstract name
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if watched else ""
        self._alive = ["WATCHDOG=1"] if microseconds.isdecimal() else []
        self._period = min(STATUS_PERIOD, int(microseconds) / 2e6) if self._alive else STATUS_PERIOD
        self._told, self._due = "", 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def tell(self, state: str, status: str) -> None:
        """Send what is new or due; callers call often.

        ``state`` is ``READY=1``, ``STOPPING=1`` or empty and sent once, ``status`` the line of ``systemctl status``. It
        is sent every two seconds, with what feeds the watchdog, or twice in the watchdog's period.
        """
        new = [state] if state != self._told else []
        if self._address and (new or time.monotonic() >= self._due):
            message = "\n".join([*new, *self._alive, f"STATUS={status}"])
            with contextlib.suppress(OSError):
                self._socket.sendto(message.encode(errors="replace"), self._address)
                self._told, self._due = state, time.monotonic() + self._period


@dataclass
class Supervisor:
    """Runs one worker after the other until one ends by itself, a signal comes, or too many had to be replaced.

    It loads neither OpenCV nor an engine, and never waits for whoever reads stdout or stderr. A worker shares both with
    this process, reads nothing from stdin, and tells systemd nothing.
    """

    command: Sequence[str]
    codes: Mapping[int, int]  # by which a stop through SIGINT, SIGTERM or SIGHUP is told
    say: Callable[[str], None]  # called with what happens, a line at a time
    report: Callable[[Event], None]  # called with an event for each worker that was given up
    hang_timeout: float  # seconds that a worker's stage may take for one call
    replaces: bool = True  # False where a new worker would repeat the old one's work (files): the first fault ends all

    def run(self) -> int:
        """Supervise until the end, when no process that was started is left; return the exit code.

        It is the worker's own, the one for the signal that came, or 1 after too many replacements. Signals stay held
        back for the rest of this process, which has only to leave. Raises OSError where a worker can't be started.
        """
        self._notifier, self._state = Notifier(), ""
        self._failures: list[float] = []
        self._replaced = 0
        self._stop_code: int | None = None  # the exit code, once a signal came
        # they are asked for, so that none passes by a worker that is just being started
        self._signals = asked_for(*STOP_SIGNALS, signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._start()
        try:
            while (code := self._look()) is None:
                pass
            return code
        finally:
            self._end()

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        pipe = theirs.fileno()
        environment = {**os.environ, WORKER: f"{pipe} {self._replaced}"}
        environment.pop("NOTIFY_SOCKET", None)
        with theirs:
            self._worker = subprocess.Popen(  # noqa: S603  # this very program
                self.command, stdin=subprocess.DEVNULL, env=environment, pass_fds=(pipe,), start_new_session=True
            )
        self._beat = Beat("starting", START_TIMEOUT)
        self._heard = self._turn = time.monotonic()

    def _look(self) -> int | None:
        """Look once at signals, beats and the worker; return the exit code where the run ends, else None."""
        time.sleep(TURN_INTERVAL)  # and not in sigtimedwait: that makes up a signal where SIGCONT interrupts it
        if (signalled := signal.sigtimedwait(self._signals, 0)) is not None:
            if signalled.si_signo == signal.SIGTSTP:
                self._pause()
            elif self._stop_code is not None:
                return self._stop_code  # the second signal ends everything at once
            else:
                self._stop(signalled.si_signo)
        before, self._turn = self._turn, time.monotonic()
        if self._turn - before > BEAT_INTERVAL:
            self._heard = self._turn  # this process was stopped, by Ctrl-Z say, and the worker perhaps as well
        self._hear()
        code, now = self._worker.poll(), self._turn
        if self._stop_code is not None:
            if code is None and now >= self._deadline:
                self._tell(f"the worker did not stop within {STOP_TIMEOUT:g} s and was killed")
            return self._stop_code if code is not None or now >= self._deadline else None
        if code is not None and code < 0:
            name = {item.value: item.name for item in signal.Signals}.get(-code, f"signal {-code}")
            return self._give_up(f"it was ended by {name}", 0.0)
        if code == RESTART and self.replaces:
            self._end()
            self._start()
            return None
        silent = now - self._heard
        if code is None and (self._beat.overdue or silent > self._beat.within):
            silence = f"no heartbeat for {silent:.1f} s: a call into C keeps the interpreter to itself"
            return self._give_up(self._beat.overdue or silence, self._beat.seconds or silent)
        return code

    def _hear(self) -> None:
        """Take the beats that came, and tell systemd."""
        with contextlib.suppress(BlockingIOError):
            while not self._beat.overdue and (message := self._channel.recv(1 << 16)):  # b"": the worker has ended
                self._beat, self._heard = Beat(**json.loads(message)), time.monotonic()
        if self._beat.phase == "running" and not self._state:
            self._state = "READY=1"
        counts = ", ".join(f"{name} {value:g}" for name, value in self._beat.counts.items())
        status = f"{self._beat.phase}{': ' if counts else ''}{counts}; workers replaced {self._replaced}"
        self._notifier.tell(self._state, status)

    def _pause(self) -> None:
        """Stop the worker on Ctrl-Z, which the terminal sends to this process alone, then this process; later go on."""
        self._signal_all(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._signal_all(signal.SIGCONT)

    def _stop(self, signum: int) -> None:
        self._stop_code, self._state = self.codes[signum], "STOPPING=1"
        self._deadline = time.monotonic() + STOP_TIMEOUT
        self._worker.send_signal(signum)

    def _signal_all(self, signum: int) -> None:
        """Send a signal to the worker and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._worker.pid, signum)

    def _end(self) -> bool:
        """End the worker and all that it started with SIGKILL; return False where a call in a driver keeps it."""
        self._signal_all(signal.SIGKILL)
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._worker.wait(SIGKILL_TIMEOUT)
        return self._worker.returncode is not None

    def _give_up(self, reason: str, seconds: float) -> int | None:
        """Kill the worker, say why, and start another; return 1 where that can't be done or is not worth it."""
        gone, now, window = self._end(), time.monotonic(), max(60.0, 6 * self.hang_timeout)
        self._failures = [then for then in self._failures if now - then <= window]
        if not self._beat.source:  # a camera whose driver hangs is tried again for ever, like one that is gone
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
