"""The parent's side of a worker: started, asked, watched and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from .catalogue import Peer
from .errors import PeerError

__all__ = ["Worker", "pick_cpus"]

BENCHMARKS = Path(__file__).parent.parent
LIMIT = 900.0  # seconds for one answer; the longest is Keras over all images
TICKS = os.sysconf("SC_CLK_TCK")
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Worker:
    """A peer's process, its engine opened.

    Attributes:
        peer: who runs.
        ready: ``load_s``, seconds from start to the opened engine, and ``versions``.
        busy_s: CPU seconds in which it was asked for something, all threads.

    Raises:
        PeerError: it can't be started, or its engine refused.
    """

    def __init__(self, peer: Peer, python: str, inputs: Path, cpus: list[int]) -> None:
        self.peer = peer
        self.busy_s = 0.0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        try:
            self._process = subprocess.Popen(
                [python, "-m", "peers.worker"],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": str(BENCHMARKS), "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        except OSError as error:
            raise PeerError(f"{peer.name}: {python} can't be started: {error.strerror or error}") from error
        try:
            self.ready = self._send(engine=peer.engine, options=dict(peer.options), inputs=str(inputs), cpus=cpus)
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have something done (``worker.main``) and wait for it.

        Raises:
            PeerError: the worker ended, or did not answer in fifteen minutes.
        """
        before = self.cpu_s
        answer = self._send(do=do, **arguments)
        self.busy_s += self.cpu_s - before
        return answer

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the process so far, in steps of 10 ms; 0 where the system does not say."""
        path = Path(f"/proc/{self._process.pid}/stat")
        if not path.exists():
            return 0.0
        fields = path.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def close(self) -> None:
        """End the process; calling it again does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, **content: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101  # both are pipes
        assert stdout is not None  # noqa: S101
        line, until = b"", time.monotonic() + LIMIT
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            stdin.write(json.dumps(content).encode() + b"\n")
            while not line.endswith(b"\n"):
                left = until - time.monotonic()
                if left <= 0 or not select.select([stdout], [], [], left)[0]:
                    self._process.kill()
                    raise PeerError(f"{self.peer.name}: expected an answer within {LIMIT:.0f} s, found none")
                part = os.read(stdout.fileno(), 2**16)
                if not part:
                    break
                line += part
        if not line.endswith(b"\n"):
            raise PeerError(f"{self.peer.name}: {self._why()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _why(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{ended}: {lines[-1].strip()[:300]}" if lines else ended


def pick_cpus(count: int) -> list[int]:
    """``count`` CPUs that this process may use, of different cores as far as there are such."""
    allowed = sorted(os.sched_getaffinity(0))
    seen: set[str] = set()
    first, second = [], []
    for cpu in allowed:
        path = Path(SIBLINGS.format(cpu))
        core = path.read_text().strip() if path.exists() else str(cpu)
        (second if core in seen else first).append(cpu)
        seen.add(core)
    return sorted((first + second)[:count])
