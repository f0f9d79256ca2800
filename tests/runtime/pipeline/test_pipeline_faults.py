import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support.live.pipelines import Camera, Clip, KeepingSink, images, run, settled, slowed

from hybrid_edge.runtime import Classifier, Frame
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.sink import Result
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.sources.events import Events

pytestmark = pytest.mark.usefixtures("every_thread_ends")


def stop_after(
    seconds: float, classifier: Classifier, captures: list[object], sink: KeepingSink, **options: object
) -> float:
    stop, stopped = threading.Event(), []
    timer = threading.Timer(seconds, lambda: (stopped.append(time.monotonic()), stop.set()))
    timer.start()
    summary = run(classifier, captures, sink, stop=stop, **options)
    assert summary.ending == "stopped"
    assert not summary.unfinished
    assert settled(summary)
    assert sink.closed == 1
    assert sink.statuses[-1].sources == summary.status.sources
    return time.monotonic() - stopped[0]


@pytest.mark.parametrize(
    "captures", [[Camera(60)], [Camera(limit=0)], [Clip(images(9) * 5000)], [Camera(90), Camera(40)]]
)
@pytest.mark.parametrize(("seconds", "options"), [(0, {}), (0.15, {}), (0.15, {"batch": 4, "max_wait_ms": 50})])
def test_a_run_stops_at_once_whatever_it_is_doing(
    classifier: Classifier, captures: list[object], seconds: float, options: dict[str, float]
) -> None:
    slowed(classifier, 0.03)
    assert stop_after(seconds, classifier, captures, KeepingSink(), **options) < 2


def test_what_is_in_the_engine_is_finished_and_written(classifier: Classifier) -> None:
    slowed(classifier, 0.4)
    sink = KeepingSink()
    assert stop_after(0.2, classifier, [Clip(images(100))], sink) < 2
    assert [result.frame.index for result in sink.results] == [0]


def test_thirty_stops_under_load_leave_nothing_behind(classifier: Classifier) -> None:
    slowed(classifier, 0.002)
    before = threading.active_count()
    for number in range(30):
        stop_after(
            0.01 + 0.001 * number,
            classifier,
            [Camera(500), Clip(images(5) * 2000)],
            KeepingSink(),
            batch=1 + number % 3,
        )
    assert threading.active_count() <= before + 1  # a timer that is just ending


def test_a_sink_that_asks_for_it_ends_the_run(classifier: Classifier) -> None:
    sink, other = KeepingSink(), KeepingSink()
    sink.on_poll = lambda: len(sink.results) >= 5
    summary = run(classifier, [Camera(200)], sink, other)
    assert summary.ending == "closed"
    assert settled(summary)
    assert (sink.closed, other.closed) == (1, 1)


@pytest.mark.parametrize(
    ("live", "error"), [(True, KeyError("a bug")), (False, KeyError("a bug")), (False, MemoryError("400 MB"))]
)
def test_an_exception_in_a_capture_ends_the_run_with_it_and_a_file_short_of_memory_does_not_look_finished(
    classifier: Classifier, live: bool, error: Exception
) -> None:
    class Broken(Clip):
        def frames(self, stop: threading.Event) -> Iterator[Frame]:
            yield from super().frames(stop)
            raise error

    sink = KeepingSink()
    with pytest.raises(type(error)) as raised:
        run(classifier, [Broken(images(3), live=live), Camera(60)], sink)
    assert raised.value is error
    assert sink.closed == 1


@pytest.mark.parametrize("method", ["write", "event", "status", "poll", "close"])
def test_a_sink_that_fails_ends_the_run_after_the_others_are_closed(classifier: Classifier, method: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(f"{method} failed")

    events, first, broken, last = Events(), KeepingSink(), KeepingSink(), KeepingSink()
    setattr(broken, method, fail)
    stop = threading.Event()
    threading.Timer(1.2 if method == "status" else 0.2, stop.set).start()
    threading.Timer(0.05, lambda: events.report("corrupt", "camera")).start()
    with pytest.raises(OSError, match=f"{method} failed"):
        run(classifier, [Camera(100)], first, broken, last, stop=stop, events=events)
    assert (first.closed, last.closed) == (1, 1)
    assert broken.closed == (0 if method == "close" else 1)


def test_the_first_of_several_failures_is_the_one_that_is_raised(classifier: Classifier) -> None:
    def fail(result: object) -> None:
        raise OSError("the disk")

    class Bad(KeepingSink):
        def close(self) -> None:
            raise KeyError("closing")

    with pytest.raises(OSError, match="the disk"):
        run(classifier, [Clip(images(5))], Bad(on_write=fail))


def test_an_interrupt_on_the_main_thread_drains_too(classifier: Classifier) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    sink = KeepingSink(on_poll=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(classifier, [Camera(60)], sink)
    assert sink.closed == 1


def test_the_activity_tells_a_stage_that_works_from_one_that_waits(classifier: Classifier) -> None:
    slowed(classifier, 0.4)
    sink = KeepingSink(on_write=lambda _: time.sleep(0.001))
    pipeline = Pipeline(classifier, [Clip(images(3), "file"), Camera(limit=0)], [sink], PipelineOptions(), Events())
    stop = threading.Event()
    seen: list[dict[str, float]] = []

    def watch() -> None:
        time.sleep(0.3)
        seen.append(dict(pipeline.busy()))
        time.sleep(1.1)
        seen.append(dict(pipeline.busy()))
        stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    pipeline.run(stop)
    watcher.join()
    assert set(seen[0]) == {"preprocess", "infer", "output"}
    assert 0.05 < seen[0]["infer"] < 0.4
    assert seen[0]["preprocess"] == 0
    assert seen[1]["infer"] == 0


def raising(error: Exception, at: int) -> Callable[..., None]:
    calls = []
    fill = Preprocessor.fill

    def failing(self: Preprocessor, *arguments: object) -> None:
        calls.append(1)
        if len(calls) == at:
            raise error
        fill(self, *arguments)  # type: ignore[arg-type]

    return failing


def no_memory() -> cv2.error:
    """What OpenCV raises where memory ends; found out by asking it for more than any machine has."""
    with pytest.raises(cv2.error) as caught:
        cv2.resize(np.zeros((10, 10), np.uint8), (2**31 - 2, 2**31 - 2), interpolation=cv2.INTER_NEAREST)
    return caught.value


@pytest.mark.parametrize("error", [MemoryError, no_memory])
def test_preprocessing_short_of_memory_gives_up_that_frame(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    monkeypatch.setattr(Preprocessor, "fill", raising(error(), 5))
    events, sink = Events(), KeepingSink()
    summary = run(classifier, [Clip(images(10))], sink, events=events, batch=2)
    assert [result.frame.index for result in sink.results] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert (events.count("memory-short", "clip"), summary.dropped) == (1, 1)
    assert settled(summary)


@pytest.mark.parametrize("error", [MemoryError, no_memory])
def test_an_output_short_of_memory_misses_that_result(classifier: Classifier, error: Callable[[], Exception]) -> None:
    def fail(result: Result) -> None:
        if result.frame.index == 4:
            raise error()

    events, short, other = Events(), KeepingSink(on_write=fail), KeepingSink()
    summary = run(classifier, [Clip(images(10))], short, other, events=events, batch=2)
    assert [result.frame.index for result in short.results] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert len(other.results) == summary.classified == 10
    assert events.count("memory-short", "clip") == 1
    assert settled(summary)


def test_a_bug_in_preprocessing_ends_the_run(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preprocessor, "fill", raising(cv2.error("a bug"), 5))
    with pytest.raises(cv2.error):
        run(classifier, [Clip(images(10))], KeepingSink())


def test_capturing_short_of_memory_loses_one_frame(classifier: Classifier) -> None:
    class Tight(Clip):
        """An iterator of its own: it goes on after an error."""

        def frames(self, _stop: threading.Event) -> Iterator[Frame]:
            return Numbers()

    class Numbers:
        index = -1

        def __iter__(self) -> Iterator[Frame]:
            return self

        def __next__(self) -> Frame:
            self.index += 1
            if self.index == 3:
                raise MemoryError
            if self.index == 6:
                raise StopIteration
            return Frame("clip", self.index, images(1)[0])

    events, sink = Events(), KeepingSink()
    summary = run(classifier, [Tight([])], sink, events=events)
    assert [result.frame.index for result in sink.results] == [0, 1, 2, 4, 5]
    assert summary.status.sources[0].captured == 6
    assert (events.count("memory-short", "clip"), summary.dropped) == (1, 1)
    assert settled(summary)


def test_a_camera_out_of_memory_is_opened_again(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(Camera):
        lives = 0

        def frames(self, stop: threading.Event) -> Iterator[Frame]:
            self.lives += 1
            for number, frame in enumerate(super().frames(stop)):
                yield frame
                if self.lives == 1 and number == 3:
                    raise MemoryError

    monkeypatch.setattr("hybrid_edge.runtime.pipeline.capturing.REOPEN_PAUSE", 0.05)
    events, camera, sink = Events(), Dying(100), KeepingSink()
    summary = run(classifier, [camera], sink, after=0.5, events=events)
    assert camera.lives == 2
    assert events.count("memory-short", "camera") == 1
    assert summary.classified > 8


def test_a_captures_own_clean_up_runs_on_its_thread_when_the_run_ends_early(classifier: Classifier) -> None:
    cleaned: list[str] = []

    class Open(Clip):
        def frames(self, stop: threading.Event) -> Iterator[Frame]:
            try:
                yield from super().frames(stop)
            finally:
                cleaned.append(threading.current_thread().name)

    slowed(classifier, 0.02)
    stop_after(0.1, classifier, [Open(images(9) * 100)], KeepingSink())
    assert cleaned == ["capture clip"]
