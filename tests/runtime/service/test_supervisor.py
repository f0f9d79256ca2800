from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.live import supervised
from support.live.run import soon

PATIENCE = 20.0  # seconds that a busy machine may take for what takes a tenth of one
QUICK = "1,1,1"


class Run:
    def __init__(self, *modes: str, limits: str = QUICK) -> None:
        command = [sys.executable, supervised.SCRIPT, limits, *modes]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.pids: list[int] = []

    def until(self, pattern: str) -> str:
        for line in self.process.stdout:
            self._keep(line.rstrip("\n"))
            if re.match(pattern, self.lines[-1]):
                return self.lines[-1]
        pytest.fail(f"no line {pattern!r}, found {self.lines[-5:]} and exit code {self.process.wait()}")

    def end(self, signum: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, if any, and wait for the end: exit code and stderr."""
        if signum is not None:
            self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=PATIENCE)
        for line in out.splitlines():
            self._keep(line)
        return self.process.returncode, err

    def _keep(self, line: str) -> None:
        self.lines.append(line)
        if found := re.match(r"(?:worker|child) (\d+)", line):
            self.pids.append(int(found[1]))

    @property
    def workers(self) -> list[str]:
        return [line.split()[2] for line in self.lines if line.startswith("worker ")]

    @property
    def events(self) -> list[str]:
        return [line for line in self.lines if line.startswith("event ")]


@pytest.fixture
def run() -> Iterator[Start]:
    runs: list[Run] = []

    def start(*modes: str, limits: str = QUICK) -> Run:
        runs.append(Run(*modes, limits=limits))
        return runs[-1]

    yield start
    for item in runs:
        if item.process.poll() is None:
            item.process.kill()
        item.process.communicate()
        assert gone(item.pids)


Start = Callable[..., Run]


def gone(pids: list[int]) -> bool:
    """Whether none of these processes is left, once they had a moment to end."""
    return soon(lambda: all(state(pid) == "Z" for pid in pids))


def state(pid: int) -> str:
    """A process's state as ``ps`` shows it: R, S, T; Z also where it is gone for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"  # dead, and whoever inherited it has looked


def test_hangs_with_and_without_the_interpreters_lock_are_noticed_and_the_worker_replaced(run: Start) -> None:
    watched = run("hang-holding", "hang", "fine")
    watched.until("event engine-hung worker given up: no heartbeat for 1")
    watched.until("event engine-hung worker given up: stage infer has been in one call for 1")
    watched.until("worker .* fine")
    watched.until("frame 20")
    code, err = watched.end(signal.SIGTERM)
    assert code == 0
    assert len(watched.events) == err.count("starting another") == 2
    assert len(set(watched.pids)) == 3


@pytest.mark.parametrize(
    ("modes", "workers", "reason"),
    [
        (("crash",), 3, "3 workers had to be given up within 60 s, the last because it was ended by SIGSEGV"),
        (("crash", "no-replacing"), 1, "the worker was given up: it was ended by SIGSEGV"),
    ],
)
def test_three_workers_given_up_within_a_minute_or_one_not_to_be_replaced_end_the_run_with_1_and_the_reason(
    run: Start, modes: tuple[str, ...], workers: int, reason: str
) -> None:
    watched = run(*modes)
    code, err = watched.end()
    assert code == 1
    assert watched.workers == ["crash"] * workers
    assert len(watched.events) == workers
    assert f"error: {reason}" in err.splitlines()[-1]


def test_a_source_that_hangs_in_its_driver_has_the_worker_replaced_as_often_as_it_takes(run: Start) -> None:
    watched = run("source", "source", "source", "fine")
    for _ in range(3):
        watched.until(r"event engine-hung worker given up: a source's call, read /dev/video0, has not returned for 1\.")
    watched.until("worker .* fine")
    watched.until("frame 5")
    assert watched.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_workers_own_exit_code_is_passed_on(run: Start, code: int) -> None:
    watched = run(f"exit{code}")
    assert watched.end() == (code, "")


@pytest.mark.parametrize(
    ("mode", "line", "signum", "code"),
    [
        ("fine", "frame 3", signal.SIGINT, 130),
        ("fine", "frame 3", signal.SIGTERM, 0),
        ("fine", "frame 3", signal.SIGHUP, 0),
        ("start", "worker", signal.SIGTERM, 0),
    ],
)
def test_a_signal_is_passed_on_and_the_exit_code_documented(
    run: Start, mode: str, line: str, signum: signal.Signals, code: int
) -> None:
    watched = run(mode)
    watched.until(line)
    found, err = watched.end(signum)
    assert found == code
    assert "killed" not in err


@pytest.mark.parametrize("mode", ["hang-holding", "drain-forever"])
def test_a_worker_that_does_not_stop_is_killed_after_the_grace(run: Start, mode: str) -> None:
    watched = run(mode, limits="60,60,0.5")
    watched.until("frame 5")
    code, err = watched.end(signal.SIGTERM)
    assert code == 0
    assert "did not stop within 0.5 s and was killed" in err


def test_a_second_signal_ends_everything_at_once(run: Start) -> None:
    watched = run("drain-forever", limits="60,60,60")
    watched.until("frame 5")
    watched.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert watched.process.poll() is None
    start = time.monotonic()
    assert watched.end(signal.SIGINT)[0] == 130
    assert time.monotonic() - start < 2


def test_a_worker_that_is_done_and_does_not_end_is_given_up(run: Start) -> None:
    watched = run("end-forever", "no-replacing")
    watched.until("frame 5")
    os.kill(watched.pids[0], signal.SIGTERM)  # the worker alone: it stops by itself
    code, err = watched.end()
    assert code == 1
    assert "it was done and did not end for 1." in err


@pytest.mark.parametrize(("mode", "line"), [("fine", "frame 3"), ("hang-holding", "frame 5"), ("start", "worker")])
def test_no_worker_is_left_where_the_supervisor_is_killed(run: Start, mode: str, line: str) -> None:
    watched = run(mode, limits="60,60,60")
    watched.until(line)
    watched.process.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_worker_started_ends_with_it(run: Start, signum: signal.Signals) -> None:
    watched = run("parent", "fine")
    watched.until("frame 3")
    if signum == signal.SIGTERM:
        assert watched.end(signum)[0] == 0
    else:
        os.kill(watched.pids[0], signum)
        watched.until("worker .* fine")
    assert gone(watched.pids[:2])


def test_a_reader_that_stops_reading_is_not_a_hang(run: Start) -> None:
    watched = run("blocked")
    watched.until("frame 5")
    time.sleep(2)  # twice the limit
    assert watched.process.poll() is None
    code, err = watched.end(signal.SIGINT)
    assert code == 130
    assert len(watched.workers) == 1
    assert "given up" not in err


def test_ctrl_z_stops_the_worker_too_and_is_held_against_nobody(run: Start) -> None:
    watched = run("fine")
    watched.until("frame 3")
    watched.process.send_signal(signal.SIGTSTP)
    assert os.waitid(os.P_PID, watched.process.pid, os.WSTOPPED) is not None
    while state(watched.pids[0]) != "T":
        time.sleep(0.01)
    time.sleep(1.2)  # longer than any limit
    watched.process.send_signal(signal.SIGCONT)
    for _ in range(20):
        watched.until("frame")
    assert watched.end(signal.SIGTERM)[0] == 0
    assert len(watched.workers) == 1


def test_a_run_that_is_frozen_as_a_whole_goes_on_with_the_same_worker(run: Start) -> None:
    watched = run("fine", limits="2,2,2")
    watched.until("frame 3")
    both = (watched.process.pid, watched.pids[0])
    for pid in both:  # as a container that is paused
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    for pid in both:  # the parent has its turn first
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.3)
    for _ in range(20):
        watched.until("frame")
    assert watched.end(signal.SIGTERM)[0] == 0
    assert len(watched.workers) == 1


def test_a_machine_that_starts_no_more_processes_is_an_error_with_the_reason() -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))"  # enough to import, not to start one
    done = subprocess.run(
        [sys.executable, "-c", f"from hybrid_edge.runtime.commands.infer import main; {few}; main()", "0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "expected to start the process that classifies" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_supervisor_loads_neither_opencv_nor_numpy_nor_an_engine() -> None:
    code = """
import sys
from hybrid_edge.runtime.commands import infer
from hybrid_edge.runtime.pipeline import launch
launch.Supervisor.run = lambda self: print(sorted({"cv2", "numpy", "onnxruntime"} & set(sys.modules))) or 0
sys.argv = ["hybrid-infer", "--camera", "0"]
infer.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
