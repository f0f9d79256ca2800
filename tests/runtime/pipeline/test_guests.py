"""A picture from outside goes through a running pipeline's engine: its asker alone hears of it."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest
from support.live.pipelines import Camera, Clip, KeepingSink, images, slowed

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.classifier import Prediction
from hybrid_edge.runtime.errors import BackendError, InputError
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.sources.events import Events

WAIT = 20.0  # seconds, on a busy machine
pytestmark = pytest.mark.usefixtures("every_thread_ends")


def pipeline_of(classifier: Classifier, sink: KeepingSink, *captures: object, **options: object) -> Pipeline:
    return Pipeline(classifier, captures, [sink], PipelineOptions(**options), Events())  # type: ignore[arg-type]


def test_guests_are_answered_in_batches_of_a_cameras_frames_and_counted_nowhere(classifier: Classifier) -> None:
    pictures = images(12, seed=50)
    expected = [prediction.probabilities for prediction in classifier.predict(pictures)]
    stop, sink, answers = threading.Event(), KeepingSink(), list[Prediction]()

    def ask(_: object) -> None:
        if len(answers) < len(pictures) and not waiting:
            waiting.append(pipeline.ask(pictures[len(answers)]))
        elif waiting and waiting[0].done():
            answers.append(waiting.pop().result())
        elif len(answers) == len(pictures):
            stop.set()

    waiting: list[Future[Prediction]] = []
    sink.on_write = ask
    pipeline = pipeline_of(classifier, sink, Camera(fps=200), batch=4, max_wait_ms=5.0)
    summary = pipeline.run(stop)
    assert np.allclose([answer.probabilities for answer in answers], expected, atol=1e-6)
    assert {result.frame.source for result in sink.results} == {"camera"}
    (status,) = summary.status.sources
    assert status.classified == len(sink.results)
    assert status.captured == status.classified + status.dropped + status.unreadable + status.waiting


def test_guests_that_never_cease_keep_no_run_of_files_from_its_end(classifier: Classifier) -> None:
    slowed(classifier, 0.002)
    sink, asked, over = KeepingSink(), list[Future[Prediction]](), threading.Event()
    pipeline = pipeline_of(classifier, sink, Clip(images(20)), batch=4)
    (picture,) = images(1)

    def flood() -> None:
        while not over.wait(0.001):
            asked.append(pipeline.ask(picture))

    flooding = threading.Thread(target=flood)
    flooding.start()
    summary = pipeline.run(threading.Event())
    over.set()
    flooding.join()
    assert (summary.ending, len(sink.results)) == ("finished", 20)
    late = pipeline.ask(picture)
    for future in [*asked, late]:
        assert future.exception(WAIT) is None or isinstance(future.exception(), BackendError)
    with pytest.raises(BackendError, match="found one that ends"):
        late.result(WAIT)


def test_a_batch_that_fails_tells_its_guest(classifier: Classifier) -> None:
    slowed(classifier, fails=lambda number: number == 0)
    stop, sink = threading.Event(), KeepingSink()
    pipeline = pipeline_of(classifier, sink, Camera(fps=50))
    failed = pipeline.ask(images(1)[0])
    sink.on_write = lambda _: stop.set()
    pipeline.run(stop)
    with pytest.raises(BackendError, match="found that it failed"):
        failed.result(WAIT)


def test_a_guest_that_was_given_up_is_passed_over_and_one_that_is_no_picture_is_refused(classifier: Classifier) -> None:
    stop, sink = threading.Event(), KeepingSink()
    pipeline = pipeline_of(classifier, sink, Camera(fps=50))
    given_up, wrong = pipeline.ask(images(1)[0]), pipeline.ask(np.zeros((0, 4, 3), np.uint8))
    assert given_up.cancel()
    sink.on_write = lambda _: stop.set() if wrong.done() else None
    pipeline.run(stop)
    with pytest.raises(InputError, match="expected a frame of shape"):
        wrong.result(WAIT)
