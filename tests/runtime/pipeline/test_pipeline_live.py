import time
from collections.abc import Callable

import numpy as np
import pytest
from support.live.pipelines import Camera, Clip, KeepingSink, balanced, images, run, slowed

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.outputs.sink import Status
from hybrid_edge.runtime.pipeline.mailbox import Intake
from hybrid_edge.runtime.sources.events import Events


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[Status]:
    """Counts as they were each time a frame came, was taken or was done: far more often than any status."""
    found: list[Status] = []
    for name in ("put", "take", "settle"):
        original = getattr(Intake, name)

        def watched(self: Intake, *arguments: object, original: object = original, **named: object) -> object:
            result = original(self, *arguments, **named)  # type: ignore[operator]
            found.append(Status(0, 0, 0, 0, self.status(lambda _: 0)))
            return result

        monkeypatch.setattr(Intake, name, watched)
    return found


def until(enough: Callable[[KeepingSink], bool]) -> KeepingSink:
    sink = KeepingSink()
    sink.on_poll = lambda: enough(sink)
    return sink


def test_an_engine_four_times_too_slow_gives_fresh_results(classifier: Classifier, snapshots: list[Status]) -> None:
    slowed(classifier, 4 / 60)
    camera, sink = Camera(60), KeepingSink(keep_images=False)
    summary = run(classifier, [camera], sink, after=2)
    (source,) = summary.status.sources
    assert source.captured == source.classified + source.dropped
    assert source.captured >= 90
    assert source.classified == len(sink.results) >= 15
    assert source.dropped >= 2 * source.classified
    assert all(balanced(status) for status in snapshots)
    assert max(status.sources[0].waiting for status in snapshots) <= 2
    ages = sorted(result.age_ms for result in sink.results)
    assert ages[len(ages) // 2] <= 1000 * (4 + 2) / 60  # 99 % of them in the soak, on a machine of its own
    numbers = [result.frame.index for result in sink.results]
    assert numbers == sorted(set(numbers))
    assert sink.results[-1].dropped <= source.dropped
    assert camera.alive.most <= 5  # captured, waiting, in the engine, at the outputs, in the sink's hand
    assert camera.alive.now == 0


def test_a_fast_engine_classifies_every_live_frame(classifier: Classifier) -> None:
    sink = KeepingSink()
    summary = run(classifier, [Camera(50)], sink, after=0.5)
    assert summary.dropped <= 2
    assert summary.classified >= 15
    assert all(result.prediction is not None for result in sink.results)


@pytest.mark.parametrize("batch", [1, 2])
def test_cameras_share_a_slow_engine_fairly(classifier: Classifier, batch: int) -> None:
    slowed(classifier, 0.02)
    cameras = [Camera(90, "fast"), Camera(60, "usual"), Camera(45, "slow")]
    sink = KeepingSink()
    run(classifier, cameras, sink, after=1.2, batch=batch)
    counts = [len(sink.of(camera.name)) for camera in cameras]
    assert min(counts) >= 8
    assert max(counts) <= 1.5 * min(counts)


def test_a_file_beside_a_camera_neither_starves_it_nor_loses_a_frame(classifier: Classifier) -> None:
    slowed(classifier, 0.005)
    sink = until(lambda sink: len(sink.of("clip")) >= 100)
    summary = run(classifier, [Camera(200), Clip(images(100))], sink, after=30)
    assert [result.frame.index for result in sink.of("clip")] == list(range(100))
    assert len(sink.of("camera")) >= 30
    assert summary.status.sources[1].dropped == 0


def test_a_camera_that_sends_nothing_holds_nobody_up(classifier: Classifier) -> None:
    sink = KeepingSink()
    summary = run(classifier, [Camera(limit=0, name="dead"), Camera(60, "alive")], sink, after=0.6, batch=2)
    assert len(sink.of("alive")) >= 20
    assert not summary.status.sources[0].flowing


def test_batches_gather_over_cameras_within_their_wait(classifier: Classifier) -> None:
    engine = slowed(classifier, 0.01)
    cameras = [Camera(20, f"camera {number}") for number in range(4)]
    sink = KeepingSink()
    run(classifier, cameras, sink, after=1, batch=4, max_wait_ms=200)
    assert max(engine.batches) == 4
    assert np.mean(engine.batches) >= 3
    assert {result.batch for result in sink.results} >= {4}


def test_without_a_wait_a_batch_is_what_is_there(classifier: Classifier) -> None:
    engine = slowed(classifier)
    run(classifier, [Camera(30)], KeepingSink(), after=0.5, batch=8)
    assert set(engine.batches) == {1}


def test_a_wait_ends_with_the_frames_that_there_are(classifier: Classifier) -> None:
    sink = KeepingSink()
    begun = time.monotonic()
    run(classifier, [Camera(1000, limit=3)], sink, after=0.8, batch=8, max_wait_ms=100)
    assert len(sink.results) >= 1
    assert sink.polls[-1] - begun < 5
    assert max(result.age_ms for result in sink.results) < 700


def test_every_frame_of_a_camera_on_request(classifier: Classifier) -> None:
    slowed(classifier, 0.02)
    sink = until(lambda sink: len(sink.results) >= 25)
    summary = run(classifier, [Camera(500, limit=25)], sink, after=30, latest=False)
    assert [result.frame.index for result in sink.results] == list(range(25))
    assert summary.dropped == 0


def test_the_newest_frame_of_a_file_on_request(classifier: Classifier) -> None:
    slowed(classifier, 0.01)
    sink = KeepingSink()
    summary = run(classifier, [Clip(images(500))], sink, latest=True)
    (source,) = summary.status.sources
    assert source.captured == 500 == source.classified + source.dropped
    assert source.dropped > 100
    assert sink.results[-1].frame.index == 499


def test_corrupt_frames_are_counted_the_good_one_classified(classifier: Classifier, snapshots: list[Status]) -> None:
    sink = until(lambda sink: bool(sink.results) and sink.results[-1].frame.index == 1009)
    camera = Camera(2000, limit=1010, broken=lambda index: index < 1000)
    summary = run(classifier, [camera], sink, after=30)
    (source,) = summary.status.sources
    assert source.unreadable == 1000
    assert source.captured == 1010 == source.classified + source.dropped + source.unreadable
    assert sink.results[-1].frame.index == 1009
    assert sink.results[-1].prediction is not None
    assert any(result.frame.error == "damaged" for result in sink.results)
    assert all(balanced(status) for status in snapshots)
    assert max(status.sources[0].waiting for status in snapshots) <= 2


def test_a_damaged_frame_does_not_push_a_good_one_out(classifier: Classifier) -> None:
    slowed(classifier, 0.05)
    sink = KeepingSink()
    run(classifier, [Camera(200, limit=4, broken=lambda index: index == 3)], sink, after=0.5)
    assert [result.frame.index for result in sink.results if result.prediction] == [0, 2]
    assert [result.frame.index for result in sink.results if not result.prediction] == [3]


def test_a_slow_window_makes_frames_drop_and_not_wait(classifier: Classifier) -> None:
    late: list[float] = []
    sink = KeepingSink(
        on_write=lambda result: (late.append(time.monotonic() - result.frame.captured), time.sleep(0.05))
    )
    summary = run(classifier, [Camera(100)], sink, after=1)
    assert summary.dropped >= 50
    assert np.median(late) < 0.25


def test_events_and_reconnects_reach_sinks_and_results(classifier: Classifier) -> None:
    events = Events()
    sink = KeepingSink()

    def after_five(result: object) -> None:
        if len(sink.results) == 5:
            events.report("reconnected", "camera", "back", seconds=2.0)

    sink.on_write = after_five
    summary = run(classifier, [Camera(100)], sink, after=0.4, events=events)
    assert [(event.kind, event.source) for event in sink.events] == [("reconnected", "camera")]
    assert sink.results[0].reconnects == 0
    assert sink.results[-1].reconnects == 1
    assert summary.status.sources[0].reconnects == 1
    assert summary.status.faults == {"reconnected": 1}


def test_sinks_are_polled_and_told_the_status_while_frames_flow_or_not(classifier: Classifier) -> None:
    sink = KeepingSink()
    run(classifier, [Camera(60, limit=20)], sink, after=1.2)
    assert np.median(np.diff(sink.polls)) <= 0.05
    assert len(sink.statuses) == 2  # after a second, and at the end
    assert all(balanced(status) for status in sink.statuses)
