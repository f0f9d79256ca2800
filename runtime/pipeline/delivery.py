"""Tells results, events and statuses to every sink, on the thread that runs the pipeline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

from ..classifier import Prediction
from ..outputs.sink import Result, Sink, SourceStatus, Status
from ..sources.events import Event, Events
from .batch import Batch, Entry
from .lines import one_line
from .mailbox import Intake
from .memory import OUT_OF_MEMORY, is_shortage
from .meters import Meter, Stage

__all__ = ["POLL", "Delivery"]

POLL = 0.02  # seconds between two calls of ``look``, which tells events and polls the sinks
STATUS = 1.0  # seconds between two statuses
EVENTS = 1000  # events that wait to be told; the oldest beyond them are only counted


class Delivery:
    """Turns batches into results and hands everything to the sinks; only one thread may use it.

    Args:
        sinks: the sinks, told in this order.
        labels: the labels of the model's outputs.
        intake: the mailboxes, whose counts a status reports.
        events: the events to pass on from now on, until ``close``.
        stage: where this stage notes its work.
    """

    def __init__(
        self, sinks: Sequence[Sink], labels: tuple[str, ...], intake: Intake, events: Events, stage: Stage
    ) -> None:
        self._sinks = sinks
        self._labels = labels
        self._intake = intake
        self._events = events
        self._stage = stage
        self._meter = Meter()
        self._news: deque[Event] = deque(maxlen=EVENTS)
        self._looked = self._told = 0.0
        self._broken = False
        self.closed = False
        """Whether the user asked to stop: closed the window, or pressed Q."""
        events.subscribe(self._news.append)

    def begin(self) -> None:
        """Start measuring rates and ages: frames flow from here on."""
        self._meter = Meter()
        self._told = self._meter.begun

    def deliver(self, batch: Batch) -> None:
        """Write a batch's results to every sink, calling ``look`` in between where that takes long."""
        if batch.rows:
            self._meter.batch(batch.inference_ms)
        for result in self._results(batch):
            if result.prediction is not None:
                self._meter.result(result.age_ms)
            self._stage.enter()
            try:
                for sink in self._sinks:
                    self._write(sink, result)
            except BaseException:
                self._broken = True
                raise
            finally:
                self._stage.leave()
            if time.monotonic() >= self.due:
                self.look()

    def _write(self, sink: Sink, result: Result) -> None:
        """Write one result; a sink that lacks the memory for it (a large picture to draw or encode) is passed over."""
        try:
            sink.write(result)
        except OUT_OF_MEMORY as error:
            if not is_shortage(error):
                raise
            self._events.report("memory-short", result.frame.source, one_line(error) or "writing a result")

    def look(self) -> None:
        """Tell events and, once a second, the status; ask every sink whether the user wants to stop."""
        self._stage.enter()
        try:
            self._look()
        except BaseException:
            self._broken = True
            raise
        finally:
            self._stage.leave()

    def _look(self) -> None:
        self._looked = now = time.monotonic()
        while self._news:
            event = self._news.popleft()
            for sink in self._sinks:
                sink.event(event)
        if now - self._told >= STATUS:
            self._told = now
            status = self.status()
            for sink in self._sinks:
                sink.status(status)
        for sink in self._sinks:
            self.closed = sink.poll() or self.closed

    def status(self) -> Status:
        """Return how the pipeline stands at this moment."""
        median, high = self._meter.ages()
        return Status(
            self._meter.rate(),
            median,
            high,
            self._meter.inference_ms(),
            self.sources(),
            self._events.counts(),
            self._meter.seconds,
        )

    def sources(self) -> tuple[SourceStatus, ...]:
        """Return every source's counts at this moment; any thread may call it."""
        return self._intake.status(lambda name: self._events.count("reconnected", name))

    def finish(self, status: Status) -> None:
        """Tell the last events and the last status, unless a sink has failed."""
        if not self._broken:
            self._told = time.monotonic()  # so that look tells no status before the given one
            self.look()
            for sink in self._sinks:
                sink.status(status)

    def close(self) -> None:
        """Close every sink, also after one that fails.

        Raises:
            BaseException: the first error that a sink raised, once all are closed.
        """
        self._events.unsubscribe(self._news.append)
        first: BaseException | None = None
        for sink in self._sinks:
            self._stage.enter()
            try:
                sink.close()
            except BaseException as error:  # raised below, when the others are closed
                first = first or error
            finally:
                self._stage.leave()
        if first is not None:
            raise first

    @property
    def due(self) -> float:
        """When to call ``look`` again, ``time.monotonic()`` seconds."""
        return self._looked + POLL

    @property
    def broken(self) -> bool:
        """Whether a sink has failed; no sink is written to any more then."""
        return self._broken

    def _results(self, batch: Batch) -> Iterator[Result]:
        boxes = {entry.box for entry in batch.entries if entry.box.live}
        reconnects = {box: self._events.count("reconnected", box.name) for box in boxes}
        for entry in batch.entries:
            captured = entry.frame.captured
            age = (batch.finished - captured) * 1000 if captured else 0.0
            prediction = self._prediction(batch, entry) if entry.row >= 0 else None
            rows = batch.rows if entry.row >= 0 else 0
            yield Result(entry.frame, prediction, age, entry.dropped, reconnects.get(entry.box, 0), rows)

    def _prediction(self, batch: Batch, entry: Entry) -> Prediction:
        outputs = batch.outputs
        if outputs is None:
            raise TypeError("expected a batch that went through the model")
        share = batch.inference_ms / batch.rows
        probabilities, logits = outputs.probabilities[entry.row], outputs.logits[entry.row]
        return Prediction(self._labels, probabilities, logits, entry.preprocess_ms, share)
