"""Tells results, events and statuses to every sink, on the thread that runs the pipeline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..classifier import Prediction
from ..errors import InputError
from ..outputs.answering import Answering
from ..outputs.sink import Result, Sink, SourceStatus, Status
from ..sources.events import Event
from .handover import MEMORY_ERRORS, Batch, Links, is_shortage, one_line
from .pending_frame import PendingFrame

if TYPE_CHECKING:
    from .models import Model

LOOK_INTERVAL = 0.02  # seconds between two calls of ``look``, which tells events and polls the sinks
STATUS_INTERVAL = 1.0  # seconds between two statuses
MAX_EVENTS = 1000  # events that wait to be told; the oldest beyond them are only counted
RATE_TIME = 5.0  # seconds over which results a second are counted
MARK_INTERVAL = 0.5  # seconds between two marks of that count: ten are enough, however often the rate is asked for
MAX_TIMES = 1024  # results, and batches, whose times are kept


class Meter:
    """Measures how fast and how fresh results are; only one thread may use it."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self._total = 0
        self._marks: deque[tuple[float, int]] = deque([(self.begun, 0)])
        self._ages: deque[float] = deque(maxlen=MAX_TIMES)
        self._engine: deque[float] = deque(maxlen=MAX_TIMES)

    def result(self, age_ms: float) -> None:
        """Count one result of that age, milliseconds."""
        self._total += 1
        self._ages.append(age_ms)

    def batch(self, inference_ms: float) -> None:
        """Note one batch's time in the engine, milliseconds."""
        self._engine.append(inference_ms)

    def rate(self) -> float:
        """Return results a second over the last five seconds; callers ask about once a second."""
        now = time.monotonic()
        while len(self._marks) > 1 and now - self._marks[1][0] >= RATE_TIME:
            self._marks.popleft()
        then, before = self._marks[0]
        if now - self._marks[-1][0] >= MARK_INTERVAL:
            self._marks.append((now, self._total))
        return (self._total - before) / (now - then) if now > then else 0.0

    def ages(self) -> tuple[float, float]:
        """Return median and 99th percentile of the last results' ages, milliseconds; 0 before the first."""
        median, high = np.percentile(self._ages or [0.0], (50, 99))
        return float(median), float(high)

    def inference_ms(self) -> float:
        """Return the mean time of the last batches in the engine, milliseconds; 0 before the first."""
        return float(np.mean(self._engine or [0.0]))


class Delivery:
    """Turns batches into results and hands everything to the sinks, in their order; only one thread may use it.

    The mailboxes of ``links`` are counted in a status, and its events passed on until ``close``. ``closed`` says
    whether the user asked to stop: closed the window, or pressed Q.
    """

    def __init__(self, links: Links, sinks: Sequence[Sink], answering: Answering) -> None:
        self.closed = False
        self._intake = links.intake
        self._events = links.events
        self._clock = links.clocks["output"]
        self._sinks = sinks
        self._answering = answering
        self._meter = Meter()
        self._model: Model | None = None
        self._untold: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._looked = self._told = 0.0
        self._events.subscribe(self._untold.append)

    @property
    def broken(self) -> bool:
        """Whether a sink has failed; no sink is written to any more then."""
        return self._clock.failed

    @property
    def due(self) -> float:
        """When to call ``look`` again, ``time.monotonic()`` seconds."""
        return self._looked + LOOK_INTERVAL

    def begin(self) -> None:
        """Start measuring rates and ages: frames flow from here on."""
        self._meter = Meter()
        self._told = self._meter.begun

    def deliver(self, batch: Batch) -> None:
        """Write a batch's results to every sink, calling ``look`` in between where that takes long."""
        if batch.rows:
            self._meter.batch(batch.inference_ms)
        if batch.model is not self._model:
            self._model = batch.model
            for sink in self._sinks:
                sink.model(batch.model.classifier)
        for result in self._results(batch):
            if result.prediction is not None:
                self._meter.result(result.age_ms)
            with self._clock:
                for sink in self._sinks:
                    self._write(sink, result)
            if time.monotonic() >= self.due:
                self.look()

    def look(self) -> None:
        """Tell events and, once a second, the status; ask every sink whether the user wants to stop."""
        with self._clock:
            self._looked = now = time.monotonic()
            while self._untold:
                event = self._untold.popleft()
                self._answering.event(event)
                for sink in self._sinks:
                    sink.event(event)
            if now - self._told >= STATUS_INTERVAL:
                self._tell(self.status())
            for sink in self._sinks:
                self.closed = sink.poll() or self.closed

    def status(self) -> Status:
        """Return how the pipeline stands at this moment."""
        median, high = self._meter.ages()
        seconds = time.monotonic() - self._meter.begun
        faults = self._events.counts()
        return Status(self._meter.rate(), median, high, self._meter.inference_ms(), self.sources(), faults, seconds)

    def sources(self) -> tuple[SourceStatus, ...]:
        """Return every source's counts at this moment; any thread may call it."""
        return self._intake.status(lambda name: self._events.count("reconnected", name))

    def finish(self, status: Status) -> None:
        """Tell the last events and the last status, unless a sink has failed."""
        if not self.broken:
            self._told = time.monotonic()  # so that look tells no status before the given one
            self.look()
            self._tell(status)

    def close(self) -> None:
        """Close every sink, also after one that fails; then raise the first error that a sink raised."""
        self._events.unsubscribe(self._untold.append)
        errors = [error for sink in self._sinks if (error := self._close(sink)) is not None]
        if errors:
            raise errors[0]

    def _close(self, sink: Sink) -> BaseException | None:
        try:
            with self._clock:
                sink.close()
        except BaseException as error:  # raised by close, when the others are closed
            return error
        return None

    def _tell(self, status: Status) -> None:
        self._told = time.monotonic()
        for sink in self._sinks:
            sink.status(status)

    def _write(self, sink: Sink, result: Result) -> None:
        """Write one result; a sink that lacks the memory for it (a large picture to draw or encode) is passed over."""
        try:
            sink.write(result)
        except MEMORY_ERRORS as error:
            if not is_shortage(error):
                raise
            self._events.report("memory-short", result.frame.source, one_line(error) or "writing a result")

    def _results(self, batch: Batch) -> Iterator[Result]:
        boxes = {pending.box for pending in batch.frames if pending.box.live}
        reconnects = {box: self._events.count("reconnected", box.source) for box in boxes}
        if batch.outputs is not None:
            batch.outputs = batch.model.classifier.calibrated(batch.outputs)
        for pending in batch.frames:
            captured = pending.frame.captured
            age = (batch.finished - captured) * 1000 if captured else 0.0
            prediction = self._prediction(batch, pending) if pending.row >= 0 else None
            if pending.asked is not None:
                self._tell_asker(pending, prediction)
                continue
            rows = batch.rows if pending.row >= 0 else 0
            result = Result(pending.frame, prediction, age, pending.dropped, reconnects.get(pending.box, 0), rows)
            yield self._answering.answered(result)

    def _tell_asker(self, pending: PendingFrame, prediction: Prediction | None) -> None:
        if prediction is None:
            pending.refuse(InputError(pending.frame.error or "expected a picture, found none"))
        elif pending.asked is not None:
            pending.asked.set_result(prediction)

    def _prediction(self, batch: Batch, pending: PendingFrame) -> Prediction:
        outputs = batch.outputs
        if outputs is None:
            raise TypeError("expected a batch that went through the model")
        share = batch.inference_ms / batch.rows
        probabilities, logits = outputs.probabilities[pending.row], outputs.logits[pending.row]
        return Prediction(batch.model.classifier.labels, probabilities, logits, pending.preprocess_ms, share)
