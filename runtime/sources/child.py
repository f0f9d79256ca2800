"""A ``gst-launch-1.0`` of ours: frames through one pipe, what it says about them through another."""

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

PIPE = 2**20  # bytes, what Linux lets anyone have: a frame takes fewer system calls
TAIL = 2000  # bytes kept of what the child says
KILLED = 1.0  # seconds from SIGKILL to its end; only a call that hangs inside a driver takes longer
GRACE = 0.5  # seconds from the last frame to the child's own end and its last words
WRONG = re.compile(r"^.*(?:ERROR|rror:|erroneous).*$", re.MULTILINE)
JETSON = re.compile(r"no element \"nv")
JETPACK = "it is for a Jetson and comes with JetPack: apt install nvidia-l4t-gstreamer"
PACKAGES = "apt install gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"


class Child:
    """A pipeline that runs in a process of its own.

    It stays in our process group, and dies with the thread that started it: no camera stays taken.
    """

    def __init__(self, pipeline: str) -> None:
        """Start it.

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
        with contextlib.suppress(OSError):  # only a matter of speed
            fcntl.fcntl(self._bytes, fcntl.F_SETPIPE_SZ, PIPE)
        self._poll = select.poll()
        self._poll.register(self._bytes, select.POLLIN)
        self._poll.register(self._words, select.POLLIN)

    def read(self, buffer: memoryview, seconds: float) -> int:
        """Put bytes into a buffer as soon as there are some; how many, 0 where none came in time.

        Raises:
            SourceError: it ended; the reason is the first line that it said about an error.
        """
        ready = [end for end, _ in self._poll.poll(1000 * seconds)]
        if self._words in ready:  # taken, so that it never waits for us
            self._listen()
        if self._bytes not in ready:
            return 0
        count = os.readv(self._bytes, [buffer])
        if not count:
            raise SourceError(f"the pipeline ended: {self._reason()}")
        return count

    def close(self) -> None:
        """Kill it and take its remains; what not even SIGKILL ends, as a driver holds it, is left to itself."""
        self._process.kill()
        for end in (self._process.stdout, self._process.stderr):
            if end is not None:
                end.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # Popen then looks for it at each new child
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
            with contextlib.suppress(KeyError):  # it was the end before
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
