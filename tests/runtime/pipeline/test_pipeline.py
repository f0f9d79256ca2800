import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.data.recordings import write_clip
from support.live.pipelines import (
    Alive,
    Camera,
    Clip,
    Deep,
    KeepingSink,
    Slow,
    balanced,
    images,
    run,
    slowed,
    stage_threads,
)
from support.models.bundles import sample_image

from hybrid_edge.runtime import Classifier, Frame
from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.pipeline.mailbox import QUEUE, WAKE_FRAMES
from hybrid_edge.runtime.sources.capture import open_captures
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.sources.names import CaptureOptions


def logits(sink: KeepingSink, name: str) -> np.ndarray:
    return np.stack([result.prediction.logits for result in sink.of(name)])  # type: ignore[union-attr]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_frame_of_a_file_comes_out_in_order(classifier: Classifier, batch: int) -> None:
    sink = KeepingSink()
    summary = run(classifier, [Clip(images(50))], sink, batch=batch)
    assert [result.frame.index for result in sink.results] == list(range(50))
    assert {result.batch for result in sink.results} <= {batch, 50 % batch}
    assert (summary.classified, summary.dropped, summary.unreadable, summary.ending) == (50, 0, 0, "finished")
    assert sink.closed == 1
    assert sink.threads == {threading.current_thread().name}
    assert not stage_threads()


def test_predictions_are_the_classifiers_own_to_the_bit(folder: Path, classifier: Classifier) -> None:
    frames = images(60)
    sink = KeepingSink()
    run(classifier, [Clip(frames)], sink)
    with Classifier.load(folder, check=False, batch_size=1) as alone:
        for result, expected in zip(sink.results, alone.predict(frames), strict=True):
            np.testing.assert_array_equal(result.prediction.logits, expected.logits)
            np.testing.assert_array_equal(result.prediction.probabilities, expected.probabilities)
            assert result.frame.image is frames[result.frame.index]
            assert result.prediction.inference_ms > 0
            assert result.prediction.preprocess_ms > 0


def test_two_sources_of_a_thousand_frames_answer_as_each_alone(classifier: Classifier) -> None:
    first, second = Clip(images(1000), "first"), Clip(images(1000, seed=500), "second")
    alone, together, batched = KeepingSink(), KeepingSink(), KeepingSink()
    run(classifier, [first], alone)
    run(classifier, [second], alone)
    run(classifier, [first, second], together)
    run(classifier, [first, second], batched, batch=8)
    tolerance = classifier.selection.variant.golden_tolerance
    for name in ("first", "second"):
        assert [result.frame.index for result in together.of(name)] == list(range(1000))
        np.testing.assert_array_equal(logits(together, name), logits(alone, name))
        assert [result.frame.index for result in batched.of(name)] == list(range(1000))
        for mixed, single in zip(batched.of(name), alone.of(name), strict=True):
            difference = mixed.prediction.probabilities - single.prediction.probabilities  # type: ignore[union-attr]
            assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize("kind", [Slow, Deep])
def test_what_is_finished_is_told_while_the_engine_waits(classifier: Classifier, kind: type[Slow]) -> None:
    """Small frames go from stage to stage some at a time; none of them may stay behind in between."""
    slowed(classifier, 0.001, kind)
    sink = KeepingSink()
    missing: list[int] = []

    class Halting(Clip):
        def frames(self, stop: threading.Event) -> Iterator[Frame]:
            for frame in super().frames(stop):
                yield frame
                told, deadline = frame.index + 1, time.monotonic() + 5
                while told % WAKE_FRAMES == 0 and len(sink.results) < told:
                    if time.monotonic() > deadline:
                        missing.append(told - len(sink.results))
                        return
                    time.sleep(0.001)

    run(classifier, [Halting(images(5 * WAKE_FRAMES))], sink)
    assert not missing
    assert [result.frame.index for result in sink.results] == list(range(5 * WAKE_FRAMES))


def test_two_files_are_read_in_turn_and_share_batches(classifier: Classifier) -> None:
    sink = KeepingSink()
    slowed(classifier, 0.002)
    run(classifier, [Clip(images(100), "first"), Clip(images(100), "second")], sink, batch=4)
    names = [result.frame.source for result in sink.results[:100]]
    assert 30 <= names.count("first") <= 70


def test_a_source_that_ends_early_leaves_its_place_to_the_other(classifier: Classifier) -> None:
    sink = KeepingSink()
    summary = run(classifier, [Clip(images(3), "short"), Clip(images(90), "long"), Clip([], "none")], sink, batch=4)
    assert len(sink.of("short")) == 3
    assert len(sink.of("long")) == 90
    assert [source.captured for source in summary.status.sources] == [3, 90, 0]


GRAY = np.zeros((20, 20), np.uint8)


@pytest.mark.parametrize(
    ("entries", "error", "batches"),
    [
        ([f"bad {number}" if number % 3 else image for number, image in enumerate(images(40))], "bad 1", 4),
        (["nothing", "but", "unreadable"] * 33, "but", 0),  # no work for the engine
        ([sample_image(1), GRAY, sample_image(2)], "found shape (20, 20)", 1),
    ],
)
def test_frames_that_can_not_be_read_are_reported_in_their_places(
    classifier: Classifier, entries: list[object], error: str, batches: int
) -> None:
    engine = slowed(classifier)
    sink = KeepingSink()
    summary = run(classifier, [Clip(entries)], sink, batch=4)  # type: ignore[arg-type]
    bad = [isinstance(entry, str) or entry is GRAY for entry in entries]
    assert [result.frame.index for result in sink.results] == list(range(len(entries)))
    assert [result.prediction is None for result in sink.results] == bad
    assert error in str(sink.results[1].frame.error)
    assert (summary.classified, summary.unreadable) == (bad.count(False), bad.count(True))
    assert len(engine.batches) == batches
    assert balanced(summary.status)


def test_a_slow_output_holds_the_source_up_and_nothing_grows(classifier: Classifier) -> None:
    alive = Alive()

    class Endless(Clip):
        def frames(self, _stop: threading.Event) -> Iterator[Frame]:
            for index in range(200):
                yield Frame("x", index, alive.watch(sample_image(index)))

    sink = KeepingSink(on_write=lambda _: time.sleep(0.002), keep_images=False)
    run(classifier, [Endless([])], sink, batch=2)
    assert len(sink.results) == 200
    assert alive.most <= QUEUE + 1 + 2 * 6  # waiting, in the source's hand, and in batches
    assert alive.now == 0


def test_one_huge_photograph_at_a_time_waits(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.pipeline.mailbox.QUEUE_BYTES", 1000)
    monkeypatch.setattr("hybrid_edge.runtime.pipeline.stages.BATCH_BYTES", 1000)
    engine = slowed(classifier)
    sink = KeepingSink()
    run(classifier, [Clip(images(30))], sink, batch=8)
    assert [result.frame.index for result in sink.results] == list(range(30))
    assert set(engine.batches) == {1}


def test_an_engine_that_takes_two_batches_gets_two(classifier: Classifier) -> None:
    engine = slowed(classifier, 0.003, Deep)
    sink, alone = KeepingSink(), KeepingSink()
    frames = images(60)
    run(classifier, [Clip(frames)], sink, batch=2)
    assert [result.frame.index for result in sink.results] == list(range(60))
    assert engine.most == 2  # type: ignore[attr-defined]
    object.__setattr__(classifier.selection, "backend", engine.engine)
    run(classifier, [Clip(frames)], alone, batch=2)
    np.testing.assert_array_equal(logits(sink, "clip"), logits(alone, "clip"))


def test_live_frames_never_stand_two_deep_in_an_engine_that_takes_two(classifier: Classifier) -> None:
    engine = slowed(classifier, 0.01, Deep)
    run(classifier, [Camera(200), Camera(200, "other")], KeepingSink(), after=0.3)
    assert engine.most == 1  # type: ignore[attr-defined]


def test_a_real_video_goes_through_as_the_classifier_reads_it(classifier: Classifier, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.avi", [sample_image(number, 48, 64) for number in range(30)])
    events = Events()
    sink = KeepingSink()
    summary = run(classifier, open_captures([path], CaptureOptions(), events), sink, events=events, batch=4)
    assert summary.classified == 30
    assert [result.frame.index for result in sink.results] == list(range(30))
    expected = classifier.predict([result.frame.image for result in sink.results])  # type: ignore[misc]
    np.testing.assert_allclose(
        logits(sink, str(path)), np.stack([item.logits for item in expected]), rtol=1e-4, atol=1e-4
    )
    assert all(0 <= result.age_ms < 60_000 for result in sink.results)


def test_the_status_at_the_end_has_every_count(classifier: Classifier) -> None:
    sink = KeepingSink()
    summary = run(classifier, [Clip([*images(20), "bad"])], sink, batch=4)
    for status in (summary.status, sink.statuses[-1]):
        (source,) = status.sources
        assert (source.name, source.captured, source.classified, source.unreadable) == ("clip", 21, 20, 1)
        assert (source.waiting, source.flowing) == (0, False)
        assert status.fps > 0
        assert status.inference_ms > 0
        assert 0 < status.age_p50_ms <= status.age_p99_ms


@pytest.mark.parametrize("options", [{"batch": 0}, {"max_wait_ms": -1}, {"max_wait_ms": float("nan")}])
def test_options_that_make_no_sense_are_a_usage_error(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a batch of at least 1"):
        PipelineOptions(**options)  # type: ignore[arg-type]


def test_no_source_is_a_usage_error(classifier: Classifier) -> None:
    with pytest.raises(UsageError, match="at least one source"):
        Pipeline(classifier, [], [], PipelineOptions(), Events())
