"""Starts, hears and ends the process that classifies; and ties such a process to its supervisor's life."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from .heartbeat import VARIABLE, Beat

__all__ = ["REPLACED", "Worker", "die_with_parent", "own_command"]

REPLACED = "HYBRID_EDGE_REPLACED"  # in a worker's environment it says how many workers there were before
PR_SET_PDEATHSIG = 1  # linux/prctl.h
CHUNK = 1 << 16


class Worker:
    """Starts a child in a session of its own, which makes its children one group with it, and reads its heartbeats.

    The child's stdout and stderr are this process's; it reads nothing from stdin.

    Args:
        command: the command line to run.
        replaced: how many workers there were before.
        environment: the child's environment; ``NOTIFY_SOCKET`` is left out, as systemd hears of one process only.

    Raises:
        OSError: the child can't be started.
    """

    def __init__(self, command: Sequence[str], replaced: int = 0, environment: Mapping[str, str] = os.environ) -> None:
        self._beats, theirs = os.pipe()
        os.set_blocking(self._beats, False)
        inherited = {name: value for name, value in environment.items() if name != "NOTIFY_SOCKET"}
        try:
            self._process = subprocess.Popen(  # noqa: S603  # this very program
                command,
                stdin=subprocess.DEVNULL,
                env={**inherited, VARIABLE: str(theirs), REPLACED: str(replaced)},
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._beats)
            raise
        finally:
            os.close(theirs)
        self._partial = b""
        self._open = True

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def wait(self, seconds: float) -> list[Beat]:
        """Wait for heartbeats, at most so many seconds, and return those that came; the first one ends the wait."""
        if not self._open:
            time.sleep(seconds)
            return []
        select.select([self._beats], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._beats, CHUNK)
            self._open = bool(data)
            self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        return [beat for line in lines if (beat := Beat.parse(line)) is not None]

    def code(self) -> int | None:
        """Return the child's exit code, or minus the number of the signal that ended it; None while it runs."""
        if self._process.returncode is None:
            # the child is not reaped yet, so that its id still stands for its group and for nothing else
            seen = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if seen is None:
                return None
            self._kill_group()
            self._process.wait()
        return self._process.returncode

    def send(self, signum: int) -> None:
        """Send the child a signal; do nothing where it has ended."""
        if self._process.returncode is None:
            os.kill(self.pid, signum)

    def send_group(self, signum: int) -> None:
        """Send a signal to the child and to all that it started; do nothing where it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signum)

    def end(self, seconds: float) -> bool:
        """End the child and all that it started with SIGKILL.

        Returns:
            Whether it was gone within so many seconds; a call that hangs inside a driver may never return.
        """
        deadline = time.monotonic() + seconds
        self.send_group(signal.SIGKILL)
        while self.code() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._beats >= 0:
            os.close(self._beats)
            self._beats, self._open = -1, False
        return self.code() is not None

    def _kill_group(self) -> None:
        self.send_group(signal.SIGKILL)


def own_command(module: str, arguments: Sequence[str]) -> list[str]:
    """Return the command line that does what this process was asked to do.

    Args:
        module: the module to run where this process was not started with these arguments (a program that calls ours).
        arguments: the command's own arguments.
    """
    head = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    if head and sys.orig_argv[1:] == [*head, *arguments]:
        return [sys.executable, *head, *arguments]
    return [sys.executable, "-m", module, *arguments]


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL once the parent is gone; a worker that hangs would not see that by itself."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
