import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from support.models.bundles import sample_image

from hybrid_edge.runtime import Frame
from hybrid_edge.runtime.pipeline.delivery import Meter
from hybrid_edge.runtime.pipeline.handover import Channel, Pace
from hybrid_edge.runtime.pipeline.mailbox import QUEUE, WAKE_FRAMES, Intake, Mailbox
from hybrid_edge.runtime.pipeline.pending_frame import PendingFrame
from hybrid_edge.runtime.sources.events import Event, Events


def frame(index: int, error: str | None = None) -> Frame:
    return Frame("x", index, None if error else sample_image(index % 5), error)


def later(seconds: float, call: object) -> None:
    threading.Timer(seconds, call).start()  # type: ignore[arg-type]


def test_a_channel_keeps_order_and_its_limit() -> None:
    channel: Channel[int] = Channel(3)
    received: list[int] = []

    def consume() -> None:
        while (item := channel.get()) is not None:
            received.append(item)

    thread = threading.Thread(target=consume)
    for number in range(3):
        assert channel.put(number + 1)
    thread.start()
    for number in range(3, 500):
        assert channel.put(number + 1)
    channel.end()
    thread.join(5)
    assert received == list(range(1, 501))
    assert channel.over
    assert not channel.put(1)


def test_a_full_channel_holds_its_producer_up_until_it_ends() -> None:
    channel: Channel[int] = Channel(1, [7])
    begun = time.monotonic()
    later(0.1, channel.end)
    assert not channel.put(8)
    assert time.monotonic() - begun >= 0.09
    assert channel.get() == 7
    assert not channel.over
    assert channel.get() is None
    assert channel.over


@pytest.mark.parametrize("consumers", [1, 3])
def test_everybody_who_waits_hears_of_the_end(consumers: int) -> None:
    channel: Channel[int] = Channel(1)
    threads = [threading.Thread(target=channel.get) for _ in range(consumers)]
    for thread in threads:
        thread.start()
    channel.end()
    channel.end()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_a_signal_whose_handler_outlasts_the_time_to_wait_does_not_make_it_endless() -> None:
    program = """
import signal, time
from hybrid_edge.runtime.pipeline.handover import Channel
signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.2))
signal.setitimer(signal.ITIMER_REAL, 0.05)
print(Channel(1).get(0.1))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60) == "None\n"


def test_what_remains_in_a_channel_comes_out_once_and_it_stays_ended() -> None:
    channel: Channel[int] = Channel(4, [1, 2])
    assert channel.remains() == [1, 2]
    channel.put(3)
    channel.end()
    assert channel.remains() == [3]
    assert channel.remains() == []
    assert channel.get() is None
    assert channel.get(0) is None


@pytest.mark.parametrize("seed", range(5))
def test_counts_add_up_after_any_order_of_events(seed: int) -> None:
    rng = random.Random(seed)
    boxes = [Mailbox("camera", live=True, newest=True), Mailbox("file", live=False, newest=False)]
    parts = [Mailbox("gate", live=True, newest=bool(seed % 3), region=name) for name in "ab"]
    intake = Intake([*([box] for box in boxes), parts], fresh=bool(seed % 2))
    taken: list[PendingFrame] = []
    for index in range(2000):
        match rng.randrange(7):
            case 6 if not any(part.full for part in parts):
                whole = frame(index, "bad" if rng.random() < 0.2 else None)
                rows = [(part, replace(whole, region=part.region, whole=whole.image)) for part in parts]
                intake.put(*rows[: rng.choice((1, 2, 2))])
            case 0 | 1:
                intake.put((boxes[0], frame(index, "bad" if rng.random() < 0.2 else None)))
            case 2 if not boxes[1].full:
                intake.put((boxes[1], frame(index, "bad" if rng.random() < 0.2 else None)))
            case 3:
                entry = intake.take(0, rng.randrange(1, 4))
                if entry is not None:
                    entry.row = -1 if entry.frame.image is None else 0
                    taken.append(entry)
            case 4:
                intake.settle(taken[:2], failed=rng.random() < 0.1)
                del taken[:2]
            case _:
                intake.give_up(taken[:1])
                intake.lose(boxes[rng.randrange(2)])
                del taken[:1]
        for status in intake.status(lambda _: 0):
            done = status.classified + status.dropped + status.unreadable
            assert status.captured == done + status.waiting
            assert 0 <= status.waiting <= QUEUE + 2 + len(taken)
    intake.close()
    intake.settle(taken)
    assert [status.waiting for status in intake.status(lambda _: 0)] == [0, 0, 0, 0]
    assert not intake.put((boxes[0], frame(1)))
    assert intake.take(None) is None
    assert intake.over


def test_sources_take_turns() -> None:
    boxes = [Mailbox(name, live=False, newest=False) for name in "abc"]
    intake = Intake([[box] for box in boxes], fresh=False)
    for box in boxes:
        for index in range(3):
            intake.put((box, frame(index)))
    names = [intake.take(0).box.name for _ in range(9)]  # type: ignore[union-attr]
    assert names == list("abcabcabc")


@pytest.mark.parametrize(
    ("patient", "first", "then"),
    [
        (False, 1, lambda *_: None),
        (True, 0, lambda intake, box: [intake.put((box, frame(index))) for index in range(1, WAKE_FRAMES)]),
        (True, 0, lambda intake, box: intake.end(box)),  # the last frames of a file are not waited for
    ],
)
def test_who_is_in_no_hurry_is_woken_for_several_frames(patient: bool, first: int, then: Any) -> None:
    box = Mailbox("file", live=False, newest=False)
    intake = Intake([[box]], fresh=False, patient=patient)
    taken: list[PendingFrame | None] = []
    taker = threading.Thread(target=lambda: taken.append(intake.take(None)))
    taker.start()
    time.sleep(0.05)
    intake.put((box, frame(0)))
    taker.join(0.3)
    assert len(taken) == first
    then(intake, box)
    taker.join(10)
    assert [pending and pending.frame.index for pending in taken] == [0]


def test_a_fresh_intake_gives_no_second_frame_of_a_source_before_the_first_is_done() -> None:
    box = Mailbox("camera", live=True, newest=True)
    intake = Intake([[box]], fresh=True)
    intake.put((box, frame(0)))
    first = intake.take(0)
    intake.put((box, frame(1)))
    intake.put((box, frame(2)))
    assert intake.take(time.monotonic() + 0.02) is None
    first.row = 0
    later(0.05, lambda: intake.settle([first]))
    second = intake.take(time.monotonic() + 5)
    assert second.frame.index == 2
    assert first.dropped == 1


def test_a_live_source_flows_while_frames_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.pipeline.mailbox.FLOW_TIMEOUT", 0.05)
    box = Mailbox("camera", live=True, newest=True)
    intake = Intake([[box]], fresh=True)
    flowing = [intake.status(lambda _: 3)[0].flowing]
    intake.put((box, frame(0)))
    flowing.append(intake.status(lambda _: 3)[0].flowing)
    time.sleep(0.06)
    status = intake.status(lambda _: 3)[0]
    assert [*flowing, status.flowing] == [False, True, False]
    assert status.reconnects == 3


def waited(pace: Pace) -> float:
    begun = time.monotonic()
    pace.wait()
    return time.monotonic() - begun


@pytest.mark.parametrize(("max_wait", "least"), [(0.0, 0.3), (0.3, 0.0)])
def test_frames_are_taken_just_before_a_busy_engine_is_free_a_wait_earlier(max_wait: float, least: float) -> None:
    pace = Pace(max_wait)
    for _ in range(2):
        assert waited(pace) < 0.05  # the engine is idle
        pace.hand_over(0.05)
        pace.start()
        pace.finish(0.4)
    pace.hand_over(0.05)
    pace.start()
    assert least < waited(pace) < 0.4 - max_wait  # less preprocessing and a margin


@pytest.mark.parametrize("end", [lambda pace: pace.finish(None), Pace.close])
def test_frames_are_taken_as_soon_as_an_engine_is_done_early_or_the_pipeline_ends(end: Any) -> None:
    pace = Pace()
    pace.hand_over(0.0)
    pace.start()
    later(0.1, lambda: end(pace))
    assert 0.05 < waited(pace) < 2


def test_ages_and_rates_are_those_of_the_last_results() -> None:
    meter = Meter()
    assert (meter.ages(), meter.inference_ms()) == ((0.0, 0.0), 0.0)
    for age in range(101):
        meter.result(float(age))
    meter.batch(4.0)
    meter.batch(6.0)
    assert meter.ages() == (50.0, 99.0)
    assert meter.inference_ms() == 5.0
    time.sleep(0.05)
    assert meter.rate() == pytest.approx(101 / (time.monotonic() - meter.begun), rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults")
def test_memory_of_frames_is_used_again_and_not_cleared_each_time() -> None:
    code = """
import resource, sys
import numpy as np
from hybrid_edge.runtime.pipeline.handover import keep_frame_memory
print(keep_frame_memory() if sys.argv[1:] else "")
def work():
    for _ in range(50):
        frames = [np.ones((480, 640, 3), np.uint8) for _ in range(8)]
        del frames
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {}
    for argument in ([], ["keep"]):
        done = subprocess.run([sys.executable, "-c", code, *argument], capture_output=True, text=True, check=True)
        kept, count = done.stdout.splitlines()
        faults[kept] = int(count)
    if "False" in faults:
        pytest.skip("not glibc")
    assert faults["True"] < 100


def test_events_tell_every_listener_until_it_leaves() -> None:
    first: list[Event] = []
    second: list[Event] = []
    events = Events(first.append)
    events.subscribe(second.append)
    events.report("stalled", "camera")
    events.unsubscribe(second.append)
    events.report("lost", "camera")
    assert [event.kind for event in first] == ["stalled", "lost"]
    assert [event.kind for event in second] == ["stalled"]
    assert events.counts() == {"lost": 1, "stalled": 1}
