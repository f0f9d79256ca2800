from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.service.heartbeat import VARIABLE, Beat, Heartbeat
from hybrid_edge.runtime.service.worker import own_command

PATIENCE = 10.0


def beats(pipe: int, phase: str) -> Beat:
    """The next beat of a phase."""
    os.set_blocking(pipe, False)
    deadline = time.monotonic() + PATIENCE
    rest = b""
    while time.monotonic() < deadline:
        try:
            rest += os.read(pipe, 4096)
        except BlockingIOError:
            time.sleep(0.01)
        *lines, rest = rest.split(b"\n")
        for line in lines:
            beat = Beat.parse(line)
            if beat is not None and beat.phase == phase:
                return beat
    pytest.fail(f"no beat of {phase} within {PATIENCE} s")


def test_beats_tell_the_phase_what_is_busy_and_counts() -> None:
    ours, theirs = os.pipe()
    environment = {VARIABLE: str(theirs)}
    heartbeat = Heartbeat.from_environment(environment)
    assert heartbeat is not None
    assert environment == {}
    assert beats(ours, "starting").busy.keys() == {"start"}
    heartbeat.progress()
    heartbeat.running(lambda: ({"infer": 0.25}, {"infer": 7}))
    assert beats(ours, "running") == Beat("running", {"infer": 0.25}, {"infer": 7})
    heartbeat.stopping()
    assert beats(ours, "stopping") == Beat("stopping")
    # the thread lives as long as the process, and a closed pipe would end that


def test_a_line_that_was_cut_off_is_no_beat() -> None:
    line = Beat("running", {"infer": 0.25}).line()
    assert Beat.parse(line) == Beat("running", {"infer": 0.25})
    assert Beat.parse(line[: len(line) // 2]) is None
    assert Beat.parse(b"[]") is None
    assert Beat.parse(b'{"unknown": 1}') is None


def test_no_variable_no_heartbeat() -> None:
    assert Heartbeat.from_environment({}) is None


@pytest.mark.parametrize("value", ["word", "9999", "0x1"])
def test_a_variable_that_names_no_pipe_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=VARIABLE):
        Heartbeat.from_environment({VARIABLE: value})


def test_a_file_is_not_taken_for_a_pipe() -> None:
    with open(os.devnull, "wb") as file, pytest.raises(UsageError, match="expected a pipe"):  # noqa: PTH123
        Heartbeat.from_environment({VARIABLE: str(file.fileno())})


def test_the_workers_command_line_is_that_of_this_process() -> None:
    worker = "hybrid_edge.runtime.service.worker"
    code = f"import sys; from {worker} import own_command; print(own_command('a.b', sys.argv[1:]))"
    arguments = [sys.executable, "-W", "ignore", "-c", code, "--camera", "0"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(arguments)


def test_a_program_that_calls_the_command_with_other_arguments_gets_the_module() -> None:
    assert own_command("a.b", ["--camera", "0"]) == [sys.executable, "-m", "a.b", "--camera", "0"]
