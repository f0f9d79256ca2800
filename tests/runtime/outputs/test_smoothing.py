"""Smoothing over time: what is averaged, when it starts anew, and that it says so."""

from __future__ import annotations

import io
import json
import math
import time
from typing import get_args

import numpy as np
import pytest
from support.live.results import make_result, make_status

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.infer_request import InferRequest
from hybrid_edge.runtime.outputs.choice import Smoothing
from hybrid_edge.runtime.outputs.result_lines import JsonLines
from hybrid_edge.runtime.outputs.sink import Result, Sink, Status
from hybrid_edge.runtime.sources.events import Event, Kind

CAT = (1.0, 0, 0, 0, 0)
DOG = (0, 1.0, 0, 0, 0)


class Kept(Sink):
    """A sink that keeps what it is given."""

    def __init__(self, error: str = "", *, asked: bool = False) -> None:
        self.results: list[Result] = []
        self.told: list[object] = []
        self.polled = 0
        self._error = error
        self._asked = asked

    def write(self, result: Result) -> None:
        self.results.append(result)

    def event(self, event: Event) -> None:
        self.told.append(event)

    def status(self, status: Status) -> None:
        self.told.append(status)

    def poll(self) -> bool:
        self.polled += 1
        return self._asked

    def close(self) -> None:
        self.told.append("closed")
        if self._error:
            raise OSError(self._error)

    def cats(self) -> list[float]:
        return [float(result.prediction.probabilities[0]) for result in self.results if result.prediction is not None]


def test_an_average_follows_the_time_between_captured_frames() -> None:
    kept = Kept()
    smoothing = Smoothing(2.0, [kept], live=["cam0"])
    for index, (moment, probabilities) in enumerate([(10.0, CAT), (11.0, DOG), (15.0, DOG)]):
        smoothing.write(make_result(index=index, captured=moment, probabilities=probabilities))
    assert kept.cats() == pytest.approx([1, math.exp(-0.5), math.exp(-0.5) * math.exp(-2)], abs=1e-6)
    for result in kept.results:
        assert result.prediction is not None
        assert result.smoothed_s == 2.0
        assert result.prediction.probabilities.dtype == np.float32
        assert result.prediction.probabilities.sum() == pytest.approx(1, abs=1e-6)
    first = kept.results[1].prediction
    assert first is not None
    assert first.label == "cat"  # though this frame alone is a dog
    assert first.logits.argmax() == 1


def test_a_video_gives_the_same_however_fast_it_is_read() -> None:
    found = []
    for speed in (0.001, 10.0):
        kept = Kept()
        smoothing = Smoothing(1.0, [kept])
        for index in range(5):
            made = make_result("clip.mp4", index, captured=1 + index * speed, probabilities=DOG if index else CAT)
            smoothing.write(made)
        found.append(kept.cats())
    assert found[0] == found[1]
    assert found[0][1] == pytest.approx(math.exp(-1 / 25), abs=1e-6)


def test_sources_are_averaged_apart_and_images_not_at_all() -> None:
    kept = Kept()
    smoothing = Smoothing(5.0, [kept], live=["cam0", "cam1"])
    smoothing.write(make_result("cam0", captured=1, probabilities=CAT))
    smoothing.write(make_result("cam1", captured=2, probabilities=DOG))
    image = make_result("cam0", video=False, probabilities=DOG)
    smoothing.write(image)
    assert kept.cats() == [1, 0, 0]
    assert kept.results[2] is image


def test_a_break_starts_the_average_anew() -> None:
    breaks = {"lost", "stalled", "reconnected", "resized"}
    for kind in get_args(Kind):
        kept = Kept()
        smoothing = Smoothing(5.0, [kept], live=["cam0"])
        smoothing.write(make_result(captured=1, probabilities=CAT))
        smoothing.event(Event(kind, "cam0", "", time.time()))
        smoothing.write(make_result(index=1, captured=2, probabilities=DOG))
        assert (kept.cats()[1] == 0) is (kind in breaks)


def test_a_stream_whose_time_goes_back_is_another_one() -> None:
    kept = Kept()
    smoothing = Smoothing(5.0, [kept])
    smoothing.write(make_result("clip.mp4", 9, probabilities=CAT))
    smoothing.write(make_result("clip.mp4", 0, probabilities=DOG))
    assert kept.cats() == [1, 0]


def test_an_unreadable_frame_passes_and_the_result_itself_is_left_alone() -> None:
    kept = Kept()
    smoothing = Smoothing(5.0, [kept], live=["cam0"])
    broken, result = make_result(error="torn"), make_result(index=1, captured=2, probabilities=DOG)
    smoothing.write(make_result(captured=1, probabilities=CAT))
    smoothing.write(broken)
    smoothing.write(result)
    assert kept.results[1] is broken
    assert result.prediction is not None
    assert result.prediction.probabilities[1] == 1
    assert kept.cats()[1] > 0.5


def test_json_lines_say_that_they_are_smoothed() -> None:
    stream = io.StringIO()
    smoothing = Smoothing(1.5, [JsonLines(1, stream)], live=["cam0"])
    smoothing.write(make_result())
    JsonLines(1, stream).write(make_result())
    smoothed, plain = (json.loads(line) for line in stream.getvalue().splitlines())
    assert smoothed.pop("smoothed_s") == 1.5
    assert smoothed.keys() == plain.keys()


def test_everything_is_passed_on_and_every_sink_is_closed_though_one_fails() -> None:
    sinks = [Kept("the disk is gone"), Kept(asked=True), Kept()]
    smoothing = Smoothing(1, sinks)
    event, status = Event("lost", "cam0", "", 0.0), make_status()
    smoothing.event(event)
    smoothing.status(status)
    assert smoothing.poll()
    with pytest.raises(OSError, match="the disk is gone"):
        smoothing.close()
    assert [sink.told for sink in sinks] == [[event, status, "closed"]] * 3
    assert [sink.polled for sink in sinks] == [1, 1, 1]


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="more than 0 seconds"):
        InferRequest(("0",), smooth=seconds)
