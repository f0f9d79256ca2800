"""Run ``gst-launch-1.0`` as a child process: frames come through one pipe, its messages through another."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shlex
import shutil
import subprocess

from ..errors import SourceError
from .names import display_name

__all__ = ["Child"]

PIPE = 2**20  # bytes, the most that Linux allows any user: a frame then takes fewer system calls
TAIL = 2000  # bytes that are kept of the child's messages, the last ones
KILLED = 1.0  # seconds from SIGKILL to the child's end; only a call that hangs inside a driver takes longer
GRACE = 0.5  # seconds from the last frame to the child's own end and its last words
WRONG = re.compile(r"^.*(?:ERROR|rror:|erroneous).*$", re.MULTILINE)
JETSON = re.compile(r"no element \"nv")
JETPACK = "it is for a Jetson and comes with JetPack: apt install nvidia-l4t-gstreamer"
PACKAGES = "apt install gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"


class Child:
    """This is a pipeline that runs in a process of its own.

    The process stays in our process group, and dies with the thread that started it, so that no camera stays taken.
    """

    def __init__(self, pipeline: str) -> None:
        """Start the process.

        Args:
            pipeline: elements in ``gst-launch-1.0``'s language that end in bytes.

        Raises:
            SourceError: GStreamer's tools are not installed, the pipeline can't be split into words, or no process
                can be started.
        """
        self._said = b""
        self._process = _launch(f"{pipeline} ! fdsink fd=1 sync=false")
        self._bytes, self._words = (
            -1 if end is None else end.fileno() for end in (self._process.stdout, self._process.stderr)
        )
        with contextlib.suppress(OSError):  # a smaller pipe works too, only slower
            fcntl.fcntl(self._bytes, fcntl.F_SETPIPE_SZ, PIPE)
        self._poll = select.poll()
        self._poll.register(self._bytes, select.POLLIN)
        self._poll.register(self._words, select.POLLIN)

    def read(self, buffer: memoryview, seconds: float) -> int:
        """Put bytes into a buffer as soon as there are some; return how many, 0 if none came within ``seconds``.

        Raises:
            SourceError: the pipeline ended; the message quotes the first line that it said about an error.
        """
        ready = [end for end, _ in self._poll.poll(1000 * seconds)]
        if self._words in ready:  # its messages are taken, so that the child never waits for us
            self._listen()
        if self._bytes not in ready:
            return 0
        count = os.readv(self._bytes, [buffer])
        if not count:
            raise SourceError(f"the pipeline ended: {self._reason()}")
        return count

    def close(self) -> None:
        """Kill the process and reap it; one held by a driver, so that not even SIGKILL ends it, is left to itself."""
        self._process.kill()
        for end in (self._process.stdout, self._process.stderr):
            if end is not None:
                end.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # Popen then tries to reap it at each new child
            self._process.wait(KILLED)

    def _reason(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        while select.select([self._words], [], [], 0)[0] and self._listen():
            pass
        wrong = WRONG.search(self._said.decode("utf-8", "replace"))
        reason = display_name(wrong[0].strip()) if wrong else "there were no more frames"
        if "no element" not in reason:
            return reason
        return f"{reason}; {JETPACK if JETSON.search(reason) else PACKAGES}"

    def _listen(self) -> bool:
        said = os.read(self._words, TAIL)
        self._said = (self._said + said)[-TAIL:]
        if not said:
            with contextlib.suppress(KeyError):  # the messages had ended before
                self._poll.unregister(self._words)
        return bool(said)


def _launch(pipeline: str) -> subprocess.Popen[bytes]:
    program = shutil.which("gst-launch-1.0")
    if program is None:
        raise SourceError(f"expected gst-launch-1.0, which reads this source, found none: {PACKAGES}")
    setpriv = shutil.which("setpriv")  # of util-linux
    guard = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
    try:
        return subprocess.Popen(  # noqa: S603 - the user's own pipeline, no shell
            [*guard, program, "-q", *shlex.split(pipeline)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
    except ValueError as error:
        raise SourceError(f"expected a GStreamer pipeline, found one with {str(error).lower()}") from None
    except OSError as error:
        raise SourceError(f"gst-launch-1.0 can't be started: {error.strerror}") from None
