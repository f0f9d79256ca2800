from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from hybrid_edge.runtime.service import signals

signals.END_TIMEOUT, signals.OUTPUTS_TIMEOUT = 0.5, 6.0
os.set_blocking(1, False)
try:
    while sys.argv[1] == "full":
        os.write(1, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(1, True)

def work(seconds):
    if seconds > 30 and sys.argv[1] == "full":
        os.write(1, b"x" * 4096)  # nobody reads it
    time.sleep(seconds)

stopping = signals.StopSignals({signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGHUP: 0})
with stopping.draining(lambda: sys.argv[2] == "closing"):
    os.kill(os.getpid(), getattr(signal, sys.argv[4]))
    work(float(sys.argv[3]))
    Path(sys.argv[5]).touch()
stopping.leave()
"""


@pytest.mark.parametrize(
    ("stdout", "doing", "seconds", "name", "code", "finished"),
    [
        ("full", "writing", 40, "SIGINT", 130, False),
        ("full", "writing", 40, "SIGTERM", 0, False),
        ("full", "writing", 40, "SIGHUP", 0, False),
        ("free", "writing", 1.5, "SIGTERM", 0, True),  # slow, and held up by nobody: an engine that is being closed
        ("full", "closing", 1.5, "SIGTERM", 0, True),
        ("full", "closing", 40, "SIGTERM", 0, False),
    ],
)
def test_an_end_that_an_unread_stdout_holds_up_is_cut_short_with_the_signals_code_and_no_other(
    tmp_path: Path, stdout: str, doing: str, seconds: float, name: str, code: int, finished: bool
) -> None:
    ended, took = leave(tmp_path / "closed", stdout, doing, seconds, name)
    assert ended == code
    assert took < 30
    assert (tmp_path / "closed").exists() is finished


def leave(mark: Path, stdout: str, doing: str, seconds: float, name: str) -> tuple[int, float]:
    """Exit code (of a KeyboardInterrupt 130), and seconds that it took."""
    begun = time.monotonic()
    arguments = [sys.executable, "-c", PROGRAM, stdout, doing, str(seconds), name, str(mark)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            code = process.wait(60)
        finally:
            process.kill()
    return 130 if code == -signal.SIGINT else code, time.monotonic() - begun
