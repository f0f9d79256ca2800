from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hybrid_edge.runtime.service.heartbeat import Beat, Heartbeat, Phase, find_overdue

PATIENCE = 10.0
STAGES = ("preprocess", "infer", "output")


def overdue(
    phase: Phase = "running", since: float = 0.0, stages: dict[str, float] | None = None, **calls: float
) -> tuple[str, float, bool]:
    return find_overdue(phase, since, stages or {}, calls, 8.0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_busy_for_more_than_eight_seconds_is_overdue(stage: str) -> None:
    idle = dict.fromkeys(STAGES, 0.0)
    assert overdue(stages={**idle, stage: 8.0}) == ("", 0.0, False)
    reason, seconds, source = overdue(stages={**idle, stage: 8.3})
    assert reason.startswith(f"stage {stage} has been in one call for 8.3 s (limit 8 s; a slower engine needs")
    assert (seconds, source) == (8.3, False)


def test_a_slower_engine_gets_the_time_that_hang_timeout_gives_it() -> None:
    assert find_overdue("running", 0, {"infer": 59.0}, {}, 60.0)[0] == ""
    assert "limit 60 s" in find_overdue("running", 0, {"infer": 61.0}, {}, 60.0)[0]


@pytest.mark.parametrize("phase", ["starting", "running"])
def test_a_sources_call_has_a_limit_of_its_own_and_is_told_apart(phase: Phase) -> None:
    assert overdue(phase, open=30.0) == ("", 0.0, False)
    reason = "a source's call, open, has not returned for 30.5 s (limit 30 s)"
    assert overdue(phase, open=30.5) == (reason, 30.5, True)


def test_starting_may_take_minutes_but_not_for_ever_without_progress() -> None:
    assert overdue("starting", 899) == ("", 0.0, False)
    assert "no progress while it started for 901.0 s" in overdue("starting", 901)[0]


def test_the_way_from_the_end_of_the_frames_to_the_end_of_the_process_has_a_limit() -> None:
    assert overdue("running", 1e6) == overdue("stopping", 8) == ("", 0.0, False)
    assert overdue("stopping", 8.5)[0] == "it was done and did not end for 8.5 s (limit 8 s)"


@pytest.mark.parametrize(("timeout", "silence"), [(2, 2), (8, 5), (60, 5)])
def test_beats_tell_the_phase_the_counts_and_how_long_to_wait_for_the_next(timeout: float, silence: float) -> None:
    ours, theirs = os.pipe()
    heartbeat = Heartbeat(theirs, timeout)
    assert next_beat(ours, "starting") == Beat("starting", 900)
    heartbeat.progress()
    heartbeat.running(lambda: {"infer": 0.25}, lambda: {"classified": 7})
    assert next_beat(ours, "running") == Beat("running", silence, {"classified": 7})
    heartbeat.stopping()
    assert next_beat(ours, "stopping") == Beat("stopping", timeout)
    # the thread lives as long as the process, and a closed pipe would end that


def next_beat(pipe: int, phase: Phase) -> Beat:
    os.set_blocking(pipe, False)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            found = [Beat(**json.loads(line)) for line in os.read(pipe, 4096).splitlines()]
        except BlockingIOError:
            time.sleep(0.01)
            continue
        for beat in found:
            if beat.phase == phase:
                return beat
    pytest.fail(f"no beat of {phase} within {PATIENCE} s")


PROGRAM = """
import os, sys, time
from hybrid_edge.runtime.service import heartbeat

heartbeat.STOPPED_TIME = 1.0
heart = heartbeat.Heartbeat.from_environment(2.0)
assert heart is not None and heartbeat.VARIABLE not in os.environ
begun = time.monotonic()
heart.running(lambda: {"infer": time.monotonic() - begun}, dict)
time.sleep(60)
"""


def test_what_was_stopped_and_continued_gets_its_time_anew_and_the_last_beat_says_why_it_is_the_last() -> None:
    ours, theirs = os.pipe()
    environment = {**os.environ, "HYBRID_EDGE_HEARTBEAT": str(theirs)}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, pass_fds=(theirs,)) as process:
        next_beat(ours, "running")
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        begun = time.monotonic()
        while not (beat := next_beat(ours, "running")).overdue:
            pass
        assert time.monotonic() - begun > 1.5
        assert beat.overdue.startswith("stage infer has been in one call for 2.")
        time.sleep(1.5)
        with pytest.raises(BlockingIOError):  # and no other follows
            os.read(ours, 1)
        process.kill()
    os.close(theirs)
    os.close(ours)


def test_no_variable_no_heartbeat() -> None:
    assert Heartbeat.from_environment(8.0, {}) is None
