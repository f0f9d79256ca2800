from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_edge.runtime.service import heartbeat
from hybrid_edge.runtime.service.heartbeat import WORKER, Beat, Heartbeat, Phase

PATIENCE = 10.0
STAGES = ("preprocess", "infer", "output")
KEPT: list[socket.socket] = []  # a heartbeat lives as long as the process, and would end it with its parent


def start(hang_timeout: float) -> tuple[Heartbeat, socket.socket]:
    """A worker's heartbeat, and its parent's end of the channel."""
    ours, theirs = channel()
    KEPT.append(ours)
    return Heartbeat(theirs, hang_timeout), ours


def channel() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def next_beat(ours: socket.socket, phase: Phase) -> Beat:
    ours.settimeout(PATIENCE)
    while (beat := Beat(**json.loads(ours.recv(4096)))).phase != phase:
        pass
    return beat


def last_beat(ours: socket.socket, phase: Phase) -> Beat:
    while not (beat := next_beat(ours, phase)).overdue:
        pass
    return beat


Watch = Callable[..., tuple[str, float, bool]]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """What is overdue where stages and calls of sources have lasted for so many seconds."""

    def watch(stages: Mapping[str, float], calls: Mapping[str, float], timeout: float = 8.0) -> tuple[str, float, bool]:
        monkeypatch.setattr(heartbeat.BLOCKING_CALLS, "busy", lambda: calls)
        heart, ours = start(timeout)
        heart.running(lambda: stages, dict)
        beat = next_beat(ours, "running")
        return beat.overdue, beat.seconds, beat.source

    return watch


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_busy_for_more_than_eight_seconds_is_overdue(watch: Watch, stage: str) -> None:
    idle = dict.fromkeys(STAGES, 0.0)
    assert watch({**idle, stage: 8.0}, {}) == ("", 0.0, False)
    reason, seconds, source = watch({**idle, stage: 8.3}, {})
    assert reason.startswith(f"stage {stage} has been in one call for 8.3 s (limit 8 s; a slower engine needs")
    assert (seconds, source) == (8.3, False)


def test_a_slower_engine_gets_the_time_that_hang_timeout_gives_it(watch: Watch) -> None:
    assert watch({"infer": 59.0}, {}, 60.0)[0] == ""
    assert "limit 60 s" in watch({"infer": 61.0}, {}, 60.0)[0]


def test_a_sources_call_has_a_limit_of_its_own_and_is_told_apart(watch: Watch) -> None:
    assert watch({}, {"open": 30.0}) == ("", 0.0, False)
    assert watch({}, {"open": 30.5}) == ("a source's call, open, has not returned for 30.5 s (limit 30 s)", 30.5, True)


def test_a_sources_call_has_that_limit_before_frames_flow_too_and_its_name_any_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat.BLOCKING_CALLS, "busy", lambda: {"open gst://" + "videotestsrc ! " * 9999: 30.5})
    beat = next_beat(start(8.0)[1], "starting")
    assert beat.overdue.startswith("a source's call, open gst://videotestsrc ! videotestsrc")
    assert beat.source


def test_starting_may_take_minutes_but_not_for_ever_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "START_TIMEOUT", 2.0)
    heart, ours = start(8.0)
    built = threading.Event()

    def build() -> None:
        while not built.wait(0.05):
            heart.progress()

    with ThreadPoolExecutor() as pool:
        pool.submit(build)
        found = [next_beat(ours, "starting").overdue for _ in range(8)]  # 3 seconds
        built.set()
    assert set(found) == {""}
    assert last_beat(ours, "starting").overdue.startswith("it made no progress while it started for 2.")


def test_the_way_from_the_end_of_the_frames_to_the_end_of_the_process_has_a_limit() -> None:
    heart, ours = start(0.7)
    heart.running(dict, dict)
    assert [next_beat(ours, "running").overdue for _ in range(4)] == [""] * 4  # 1.5 seconds
    heart.stopping()
    assert next_beat(ours, "stopping").overdue == ""
    beat = last_beat(ours, "stopping")
    assert beat.overdue == f"it was done and did not end for {beat.seconds:.1f} s (limit 0.7 s)"
    assert beat.seconds > 0.7


@pytest.mark.parametrize(("timeout", "silence"), [(2, 2), (8, 5), (60, 5)])
def test_beats_tell_the_phase_the_counts_and_how_long_to_wait_for_the_next(timeout: float, silence: float) -> None:
    heart, ours = start(timeout)
    assert next_beat(ours, "starting") == Beat("starting", 900)
    heart.running(lambda: {"infer": 0.25}, lambda: {"classified": 7})
    assert next_beat(ours, "running") == Beat("running", silence, {"classified": 7})
    heart.stopping()
    assert next_beat(ours, "stopping") == Beat("stopping", timeout)


def test_no_beat_of_a_phase_comes_after_the_next_one_began() -> None:
    heart, ours = start(8.0)
    beating = threading.Event()

    def counts() -> dict[str, float]:
        if threading.current_thread() is not threading.main_thread():
            beating.set()
            time.sleep(0.3)
        return {}

    heart.running(dict, counts)
    assert beating.wait(PATIENCE)
    heart.stopping()
    next_beat(ours, "stopping")
    assert [Beat(**json.loads(ours.recv(4096))).phase for _ in range(2)] == ["stopping"] * 2


PROGRAM = """
import ctypes, sys, time
from hybrid_edge.runtime.service import heartbeat

heartbeat.STOPPED_TIME = 1.0
heart = heartbeat.Heartbeat.from_environment(2.0)
assert heart is not None and heart.replaced == 3 and heartbeat.Heartbeat.from_environment(2.0) is None
begun = time.monotonic()
heart.running(lambda: {"infer": time.monotonic() - begun}, dict)
if "stopping" in sys.argv:
    heart.stopping()
(ctypes.PyDLL if "holding" in sys.argv else ctypes.CDLL)(None).sleep(60)
"""


def worker(theirs: socket.socket, *how: str) -> subprocess.Popen[bytes]:
    """A process in a call that does not return."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *how],
        env={**os.environ, WORKER: f"{theirs.fileno()} 3"},
        pass_fds=(theirs.fileno(),),
    )


def test_what_was_stopped_and_continued_gets_its_time_anew_and_the_last_beat_says_why_it_is_the_last() -> None:
    ours, theirs = channel()
    with ours, theirs, worker(theirs) as process:
        next_beat(ours, "running")
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        begun = time.monotonic()
        beat = last_beat(ours, "running")
        assert time.monotonic() - begun > 1.5
        assert beat.overdue.startswith("stage infer has been in one call for 2.")
        time.sleep(1.5)
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):  # and no other follows
            ours.recv(1)
        process.kill()


@pytest.mark.parametrize("phase", ["running", "stopping"])
def test_a_phase_is_told_before_its_first_call_can_hold_the_interpreters_lock(phase: Phase) -> None:
    ours, theirs = channel()
    with ours, theirs, worker(theirs, "holding", phase) as process:
        assert next_beat(ours, phase).within == 2.0
        process.kill()


def test_a_worker_whose_supervisor_was_gone_before_it_could_begin_ends() -> None:
    ours, theirs = channel()
    ours.close()
    with theirs, worker(theirs) as process:
        assert process.wait(PATIENCE) == 1


def test_no_variable_no_heartbeat() -> None:
    assert Heartbeat.from_environment(8.0) is None
