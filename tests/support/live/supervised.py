"""A supervisor and workers that classify nothing, for tests of what happens between the two.

    python supervised.py LIMITS MODE [MODE ...]    the first worker has the first mode, its successor the second, ...

LIMITS is busy,silence,grace in seconds; a call of a source may take as long as busy. Each worker prints
``worker PID MODE`` and then a line every 20 ms.
"""

# ruff: noqa: T201  # what this prints is what it is for
from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from hybrid_edge.runtime.service import heartbeat as beats
from hybrid_edge.runtime.service import supervisor as parent
from hybrid_edge.runtime.service.heartbeat import Heartbeat
from hybrid_edge.runtime.service.signals import StopSignals
from hybrid_edge.runtime.service.supervisor import Supervisor
from hybrid_edge.runtime.sources.blocking import BLOCKING_CALLS
from hybrid_edge.runtime.sources.events import Event

SCRIPT = Path(__file__)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGHUP: 0}
PERIOD = 0.02


def hang(*, holding: bool) -> None:
    """Lock a C mutex twice: a call that never returns and that no signal ends, with the interpreter's lock or not."""
    library = (ctypes.PyDLL if holding else ctypes.CDLL)(None)
    mutex = ctypes.create_string_buffer(256)  # all zeros: PTHREAD_MUTEX_INITIALIZER
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


class Stage:
    """The one stage of these workers, with the time its current call began."""

    def __init__(self) -> None:
        self.name = "infer"
        self.since: float | None = None
        self.done = 0

    def busy(self) -> dict[str, float]:
        return {self.name: 0.0 if self.since is None else time.monotonic() - self.since}

    def counts(self) -> dict[str, float]:
        return {"classified": self.done}


def hang_in_a_source() -> None:
    """What a dead camera's driver does to the thread that reads it; everything else goes on."""
    with BLOCKING_CALLS.noted("read /dev/video0"):
        hang(holding=False)


def misbehave(mode: str, stage: Stage) -> None:
    """What a mode does after a few good frames."""
    if mode == "source":
        threading.Thread(target=hang_in_a_source, daemon=True).start()
        return
    if mode == "fine":
        return
    stage.since = time.monotonic()
    if mode.startswith("hang"):
        hang(holding=mode.endswith("holding"))
    elif mode == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif mode == "blocked":
        stage.name = "output"
        os.write(1, b"x" * (1 << 22))
    elif mode.startswith("exit"):
        os._exit(int(mode[4:]))


def work(modes: list[str], limits: str) -> int:
    busy, silence, _ = map(float, limits.split(","))
    beats.SOURCE_TIMEOUT, beats.SILENCE_TIMEOUT = busy, silence
    heartbeat = Heartbeat.from_environment(busy)
    assert heartbeat is not None
    mode = modes[min(heartbeat.replaced, len(modes) - 1)]
    stage = Stage()
    signals = StopSignals(CODES)
    print("worker", os.getpid(), mode, flush=True)
    if mode == "start":
        time.sleep(3600)
    if mode == "parent":  # one that has a child of its own, as a capture through gst-launch has
        child = subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print("child", child.pid, flush=True)
    heartbeat.running(stage.busy, stage.counts)
    with signals.draining(lambda: False) as stop:
        while not stop.wait(PERIOD):
            stage.done += 1
            print("frame", stage.done, flush=True)
            if stage.done == 5:
                misbehave(mode, stage)
    if mode == "drain-forever":
        threading.Event().wait()
    heartbeat.stopping()
    if mode == "end-forever":
        threading.Event().wait()
    signals.leave()
    return 0


def supervise(limits: str, modes: list[str]) -> int:
    busy, _, parent.STOP_TIMEOUT = map(float, limits.split(","))

    def report(event: Event) -> None:
        print("event", event.kind, event.detail, flush=True)

    supervisor = Supervisor(
        [sys.executable, str(SCRIPT), "worker", limits, *modes],
        codes=CODES,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        report=report,
        hang_timeout=busy,
        replaces="no-replacing" not in modes,
    )
    return supervisor.run()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        sys.exit(work(sys.argv[3:], sys.argv[2]))
    sys.exit(supervise(sys.argv[1], sys.argv[2:]))
