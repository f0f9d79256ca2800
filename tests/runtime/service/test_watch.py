from __future__ import annotations

import pytest

from hybrid_edge.runtime.service.heartbeat import Beat
from hybrid_edge.runtime.service.watch import Limits, Watch


@pytest.fixture
def watch() -> Watch:
    return Watch(Limits(), 100)


def test_silence_of_more_than_five_seconds_is_a_hang_while_frames_flow(watch: Watch) -> None:
    watch.hear(Beat("running", {"infer": 0.1}), 200)
    assert watch.verdict(205) is None
    verdict = watch.verdict(205.2)
    assert verdict is not None
    assert verdict.reason.startswith("no heartbeat for 5.2 s")
    assert verdict.seconds == pytest.approx(5.2)


@pytest.mark.parametrize("stage", ["preprocess", "infer", "output"])
def test_a_stage_that_is_busy_for_more_than_eight_seconds_is_a_hang(watch: Watch, stage: str) -> None:
    watch.hear(Beat("running", {stage: 8.0, "capture rtsp://camera": 0}), 200)
    assert watch.verdict(200) is None
    watch.hear(Beat("running", {stage: 8.3, "capture rtsp://camera": 0}), 200.5)
    verdict = watch.verdict(200.5)
    assert verdict is not None
    assert f"stage {stage} has been in one call for 8.3 s (limit 8 s" in verdict.reason


def test_a_capture_may_wait_for_its_camera_as_long_as_it_wants(watch: Watch) -> None:
    watch.hear(Beat("running", {"capture camera 1": 86400, "capture": 3600, "infer": 0}), 200)
    assert watch.verdict(200) is None


def test_a_stage_that_waits_for_a_reader_who_does_not_read_is_no_hang(watch: Watch) -> None:
    watch.hear(Beat("running", {"output": 60}), 200)
    assert watch.verdict(200, blocked=True) is None
    assert watch.verdict(200) is not None


def test_starting_may_take_minutes_but_not_for_ever_without_progress(watch: Watch) -> None:
    assert watch.verdict(900) is None
    watch.hear(Beat("starting", {"start": 880}), 1000)
    assert watch.verdict(1000) is None
    watch.hear(Beat("starting", {"start": 901}), 1021)
    verdict = watch.verdict(1021)
    assert verdict is not None
    assert "stage start" in verdict.reason
    assert Watch(Limits(), 100).verdict(1001) is not None


def test_the_way_from_the_end_of_the_frames_to_the_end_of_the_process_has_a_limit(watch: Watch) -> None:
    for beat in range(17):
        watch.hear(Beat("stopping"), 200 + beat / 2)
        assert watch.verdict(200 + beat / 2) is None
    watch.hear(Beat("stopping"), 208.5)
    assert watch.verdict(208.5) is not None


def test_what_was_stopped_and_continued_gets_time_to_show_it(watch: Watch) -> None:
    watch.hear(Beat("running", {"infer": 0.1}), 200)
    watch.resume(300)
    assert watch.verdict(300) is None
    watch.hear(Beat("running", {"infer": 100}), 300.5)  # written before the pause was over
    assert watch.verdict(300.5) is None
    watch.hear(Beat("running", {"infer": 102}), 302.5)
    assert watch.verdict(302.5) is not None


@pytest.mark.parametrize(("timeout", "silence"), [(2, 2), (8, 5), (60, 5)])
def test_the_limit_of_silence_follows_a_shorter_hang_timeout(timeout: float, silence: float) -> None:
    limits = Limits.of(timeout)
    assert (limits.busy, limits.silence) == (timeout, silence)


def test_a_sources_call_has_a_limit_of_its_own_in_every_phase(watch: Watch) -> None:
    for phase in ("starting", "running"):
        watch.hear(Beat(phase, {"capture camera": 3600, "call open /dev/video0": 30}), 200)
        assert watch.verdict(200) is None
        watch.hear(Beat(phase, {"capture camera": 3600, "call open /dev/video0": 30.5}), 200.5)
        verdict = watch.verdict(200.5)
        assert verdict is not None
        assert verdict.source
        assert verdict.reason == "a source's call, open /dev/video0, has not returned for 30.5 s (limit 30 s)"


@pytest.mark.parametrize(("timeout", "window"), [(1, 60), (8, 60), (10, 60), (30, 180), (120, 720)])
def test_three_failures_fall_within_the_window_however_long_each_takes_to_notice(timeout: float, window: float) -> None:
    limits = Limits.of(timeout)
    assert limits.window == window
    assert (limits.failures - 1) * timeout < limits.window / 2  # the rest is for starting
