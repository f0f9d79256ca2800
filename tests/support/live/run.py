"""``hybrid-infer`` as a process of its own, its JSON lines read as they come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hybrid_edge.runtime.opencv import cv2

COMMAND = (sys.executable, "-m", "hybrid_edge.runtime.commands.infer")
HANGING = (sys.executable, os.fspath(Path(__file__).with_name("hanging_infer.py")))  # one whose engine hangs on demand
Line = dict[str, Any]


class LiveRun:
    """A run with ``--json``; a context manager that leaves no process behind.

    Attributes:
        lines: what came so far, each with ``_at``, the ``time.monotonic()`` of its arrival.
        errors: the lines of stderr.
    """

    def __init__(
        self,
        *arguments: object,
        program: Sequence[str] = COMMAND,
        environment: dict[str, str] | None = None,
        stdin: int | None = None,
    ) -> None:
        self.lines: list[Line] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            [*program, *map(str, arguments), "--json"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._readers = [
            threading.Thread(target=self._read_results, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def results(self) -> list[Line]:
        return [line for line in list(self.lines) if "labels" in line]

    def events(self, kind: str) -> list[Line]:
        return [line for line in list(self.lines) if line.get("event") == kind]

    def until(self, condition: Callable[[], object], seconds: float = 30, what: str = "") -> None:
        """Wait until something holds, or fail with what was said so far."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or (self.process.poll() is not None and not condition()):
                state = self.process.poll()
                raise AssertionError(f"{what or 'it'} did not come; exit code {state}\n" + "\n".join(self.errors[-20:]))
            time.sleep(0.02)

    def frames(self, count: int, seconds: float = 30) -> None:
        target = len(self.results) + count
        self.until(lambda: len(self.results) >= target, seconds, f"{count} more results")

    def end(self, seconds: float = 30) -> int:
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join()
        return code

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()

    def _read_results(self) -> None:
        for line in self.process.stdout:
            self.lines.append({**json.loads(line), "_at": time.monotonic()})

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            self.errors.append(line.rstrip("\n"))


def soon(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Whether something holds, once it had time to."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def frames_of(video: Path) -> int:
    capture = cv2.VideoCapture(str(video))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def processes_of(mark: str) -> list[int]:
    """Ids of the living processes whose command line or environment holds a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in text:
            found.append(int(folder.name))
    return found
