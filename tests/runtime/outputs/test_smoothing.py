import io
import json
import math
from collections.abc import Iterable
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
    def __init__(self, error: str = "", *, asked: bool = False) -> None:
        self.results: list[Result] = []
        self.told: list[object] = []
        self._error = error
        self._asked = asked

    def write(self, result: Result) -> None:
        self.results.append(result)

    def event(self, event: Event) -> None:
        self.told.append(event)

    def status(self, status: Status) -> None:
        self.told.append(status)

    def poll(self) -> bool:
        self.told.append("polled")
        return self._asked

    def close(self) -> None:
        self.told.append("closed")
        if self._error:
            raise OSError(self._error)

    def cats(self) -> list[float]:
        return [float(result.prediction.probabilities[0]) for result in self.results if result.prediction is not None]


def smoothed(seconds: float, items: Iterable[Result | Event], *live: str) -> Kept:
    kept = Kept()
    smoothing = Smoothing(seconds, [kept], live=live)
    for item in items:
        smoothing.event(item) if isinstance(item, Event) else smoothing.write(item)
    return kept


def test_an_average_follows_the_time_between_captured_frames() -> None:
    moments = [(10.0, CAT), (11.0, DOG), (15.0, DOG)]
    results = [make_result(captured=moment, probabilities=probabilities) for moment, probabilities in moments]
    kept = smoothed(2.0, results, "cam0")
    assert kept.cats() == pytest.approx([1, math.exp(-0.5), math.exp(-0.5) * math.exp(-2)], abs=1e-6)
    for result in kept.results:
        assert result.smoothed_s == 2.0
        assert result.prediction.probabilities.dtype == np.float32
        assert result.prediction.probabilities.sum() == pytest.approx(1, abs=1e-6)
    second, own = kept.results[1].prediction, results[1].prediction
    assert second.label == "cat"  # though this frame alone is a dog
    assert second.logits.argmax() == 1
    assert own.probabilities[1] == 1  # the result itself is left alone


def test_a_video_gives_the_same_however_fast_it_is_read() -> None:
    found = []
    for speed in (0.001, 10.0):
        moments = [1 + index * speed for index in range(5)]
        results = [
            make_result("clip.mp4", i, captured=t, probabilities=DOG if i else CAT) for i, t in enumerate(moments)
        ]
        found.append(smoothed(1.0, results).cats())
    assert found[0] == found[1]
    assert found[0][1] == pytest.approx(math.exp(-1 / 25), abs=1e-6)


def test_sources_are_averaged_apart_and_images_and_unreadable_frames_pass_as_they_are() -> None:
    image, broken = make_result("cam0", video=False, probabilities=DOG), make_result("cam0", error="torn")
    first = make_result("cam0", captured=1, probabilities=CAT)
    other, again = (make_result(name, captured=2, probabilities=DOG) for name in ("cam1", "cam0"))
    kept = smoothed(5.0, [first, other, image, broken, again], "cam0", "cam1")
    assert kept.cats() == pytest.approx([1, 0, 0, math.exp(-1 / 5)])
    assert kept.results[2:4] == [image, broken]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_break_starts_the_average_anew(kind: Kind) -> None:
    first, second = make_result(captured=1, probabilities=CAT), make_result(captured=2, probabilities=DOG)
    kept = smoothed(5.0, [first, Event(kind, "cam0", "", 1.0), second], "cam0")
    assert (kept.cats()[1] == 0) is (kind in {"lost", "stalled", "reconnected", "resized"})


def test_a_stream_whose_time_goes_back_is_another_one() -> None:
    results = [make_result("clip.mp4", 9, probabilities=CAT), make_result("clip.mp4", 0, probabilities=DOG)]
    assert smoothed(5.0, results).cats() == [1, 0]


def test_json_lines_say_that_they_are_smoothed() -> None:
    stream = io.StringIO()
    Smoothing(1.5, [JsonLines(1, stream)], live=["cam0"]).write(make_result())
    JsonLines(1, stream).write(make_result())
    averaged, plain = (json.loads(line) for line in stream.getvalue().splitlines())
    assert averaged.pop("smoothed_s") == 1.5
    assert averaged.keys() == plain.keys()


def test_everything_is_passed_on_and_every_sink_is_closed_though_one_fails() -> None:
    sinks = [Kept("the disk is gone"), Kept(asked=True), Kept()]
    smoothing = Smoothing(1, sinks)
    event, status = Event("lost", "cam0", "", 0.0), make_status()
    smoothing.event(event)
    smoothing.status(status)
    assert smoothing.poll()
    with pytest.raises(OSError, match="the disk is gone"):
        smoothing.close()
    assert [sink.told for sink in sinks] == [[event, status, "polled", "closed"]] * 3


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="more than 0 seconds"):
        InferRequest(("0",), smooth=seconds)
