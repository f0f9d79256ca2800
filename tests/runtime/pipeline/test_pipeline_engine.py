import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.live.pipelines import Camera, Clip, KeepingSink, Refusing, balanced, images, run, settled, slowed

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.errors import BackendError
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.sources.events import Events

pytestmark = pytest.mark.usefixtures("every_thread_ends")


def test_a_batch_that_fails_gives_up_its_frames_alone(classifier: Classifier) -> None:
    slowed(classifier, fails=lambda number: number in (1, 2, 4))
    events, sink = Events(), KeepingSink()
    entries = [*images(10), "bad", *images(10)]
    summary = run(classifier, [Clip(entries)], sink, events=events, batch=2)
    assert events.count("engine-failed") == 3
    assert "out of order" in sink.events[0].detail
    assert (summary.classified, summary.dropped, summary.unreadable) == (14, 6, 1)
    assert settled(summary)
    assert [result.frame.index for result in sink.results] == [0, 1, 6, 7, *range(10, 21)]
    assert sink.results[-1].dropped == 6


def test_a_refused_batch_keeps_its_place_behind_one_in_the_engine(classifier: Classifier) -> None:
    engine = slowed(classifier, 0.05, kind=Refusing, fails=lambda number: number in (2, 4))
    events, sink = Events(), KeepingSink()
    entries = [*images(5), "bad", *images(6)]  # the third batch is the frames 4, 5 (unreadable) and 6
    summary = run(classifier, [Clip(entries)], sink, events=events, batch=2)
    assert engine.most == 2
    assert [result.frame.index for result in sink.results] == [0, 1, 2, 3, 5, 7, 8, 11]
    assert (summary.classified, summary.dropped, summary.unreadable) == (7, 4, 1)
    assert events.count("engine-failed") == 2
    assert settled(summary)


def test_three_refused_batches_end_the_run_only_if_in_a_row(classifier: Classifier) -> None:
    engine = slowed(classifier, 0.01, kind=Refusing, fails=lambda number: number in (1, 2, 4, 5, 6))
    with pytest.raises(BackendError, match="out of order"):
        run(classifier, [Clip(images(40))], KeepingSink())
    assert len(engine.batches) in (7, 8)  # the eighth may have been there when the third failure's turn came


@pytest.mark.parametrize("captures", [[Camera(100)], [Clip(images(50))]])
def test_three_failed_batches_in_a_row_end_the_run(classifier: Classifier, captures: list[object]) -> None:
    engine = slowed(classifier, fails=lambda number: number >= 2)
    events, sink = Events(), KeepingSink()
    with pytest.raises(BackendError, match="out of order"):
        run(classifier, captures, sink, events=events)
    assert len(engine.batches) == 5
    assert events.count("engine-failed") == 3
    assert len(sink.results) == 2
    assert sink.closed == 1


def test_an_engine_that_fails_in_another_way_ends_the_run(classifier: Classifier) -> None:
    def fail(number: int) -> bool:
        raise RuntimeError("a bug in the backend")

    slowed(classifier, fails=fail)
    with pytest.raises(RuntimeError, match="a bug in the backend"):
        run(classifier, [Camera(100)], KeepingSink())


@pytest.fixture
def hanging(classifier: Classifier) -> Iterator[threading.Event]:
    hanging, release = threading.Event(), threading.Event()

    def fails(number: int) -> bool:
        if number == 2:
            hanging.set()
            release.wait(30)
        return False

    slowed(classifier, fails=fails)
    yield hanging
    release.set()
    for thread in threading.enumerate():
        if thread.name == "infer":
            thread.join(5)


def test_a_hanging_engine_is_left_behind_in_time_and_named(classifier: Classifier, hanging: threading.Event) -> None:
    sink, stop = KeepingSink(), threading.Event()
    pipeline = Pipeline(classifier, [Camera(100)], [sink], PipelineOptions(), Events())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pipeline.run, stop)
        assert hanging.wait(5)
        begun = time.monotonic()
        stop.set()
        summary = running.result()
    assert time.monotonic() - begun < 2.2
    assert summary.unfinished == ("infer",)
    assert pipeline.busy()["infer"] > 1
    assert sink.closed == 1
    assert balanced(summary.status)


def test_a_hanging_engine_in_a_run_that_fails_is_named_too(classifier: Classifier, hanging: threading.Event) -> None:
    def poll() -> bool:
        if hanging.is_set():
            raise OSError("the window is gone")
        return False

    pipeline = Pipeline(classifier, [Camera(100)], [KeepingSink(on_poll=poll)], PipelineOptions(), Events())
    with pytest.raises(OSError, match="the window is gone"):
        pipeline.run(threading.Event())
    assert pipeline.unfinished == ("infer",)
