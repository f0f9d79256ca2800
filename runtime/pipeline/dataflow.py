"""Takes frames of any number of sources through the model to the outputs, and ends cleanly from any state.

    capture threads ─► mailboxes ─► preprocess + batch thread ─► inference thread ─► outputs, on the caller's thread

Nothing between the stages grows. Where the newest frame wins, a mailbox holds one frame, which is taken just before the
engine is free; where every frame counts, whoever is ahead waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..errors import UsageError
from ..outputs.answering import Answering
from ..outputs.sink import Sink, SourceStatus, Status
from ..sources.events import Events
from ..sources.regions import Region, RegionCutter
from .capturing import Capturing
from .delivery import LOOK_INTERVAL, Delivery
from .handover import Batch, Channel, Links, Pace, keep_frame_memory
from .mailbox import WAKE_FRAMES, Intake, Mailbox
from .models import Models
from .stages import Inference, Preparation

if TYPE_CHECKING:
    from ..classifier import Classifier, Prediction
    from ..frame import Pixels
    from ..sources.capture import Capture

DRAIN_TIME = 1.8  # seconds from the wish to stop to the end of ``run``, without the time to close the sinks
JOIN_TIME = 0.1  # seconds that ``run`` waits for each thread at least
FLOAT_BYTES = 4
SMALL_BYTES = 2**18  # of a frame's tensors whose engine may take no longer than waking the next stage's thread

Ending = Literal["finished", "stopped", "closed"]


@dataclass(frozen=True)
class PipelineOptions:
    """How frames are gathered into batches.

    Attributes:
        batch: the most frames that go through the model at once.
        max_wait_ms: how long a live batch waits for more frames after its first, milliseconds; 0: not at all. Batches
            of files alone wait until they are full.
        digit: whether the model is shown the digit that ``photographed_frame`` finds in a frame.
        latest: whether the newest frame wins and others are dropped; None: for live sources alone.
        regions: by a capture's name, the regions that its pictures are cut into; none of a capture: they go whole.
        regions_must_fit: whether a live source's first picture must have its regions; else those outside are left out.

    Raises:
        UsageError: the batch is below 1, or the wait is negative or endless.
    """

    batch: int = 1
    max_wait_ms: float = 0.0
    latest: bool | None = None
    digit: bool = False
    regions: Mapping[str, tuple[Region, ...]] = field(default_factory=dict)
    regions_must_fit: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.max_wait_ms < float("inf"):
            raise UsageError(
                f"expected a batch of at least 1 and a wait of at least 0 ms, found {self.batch} and {self.max_wait_ms}"
            )


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        status: the last status, when nothing moved any more.
        ending: every source ended (``finished``), ``stop`` was set (``stopped``), or a sink asked for it (``closed``).
        unfinished: threads that did not end in time, as they hang in a decoder or an engine: leave the process by
            ``os._exit`` then, as the engine can't be closed under them.
    """

    status: Status
    ending: Ending
    unfinished: tuple[str, ...] = ()


class Pipeline:
    """Runs captures, at least one, through a classifier, once.

    One thread of the pipeline alone uses the classifier's engine until ``run`` returns; ``run`` closes the sinks,
    whatever happens. The pipeline and the captures report faults to ``events``. ``answering`` makes the results'
    answers; by default they are the most probable labels. ``closing``, for any thread, says
    whether ``run`` has come to closing the sinks, which must not be cut short; ``unfinished`` has the threads that
    hang, known after ``run``, also where it raised (see ``Summary``); ``models`` lets another classifier take over.

    Raises:
        UsageError: there is no capture.
        BackendError: there is not enough memory for the engine's inputs.
    """

    def __init__(
        self,
        classifier: Classifier,
        captures: Sequence[Capture],
        sinks: Sequence[Sink],
        options: PipelineOptions,
        events: Events,
        answering: Answering | None = None,
    ) -> None:
        if not captures:
            raise UsageError("expected at least one source, found none")
        self.closing = False
        self.unfinished: tuple[str, ...] = ()
        self._error: BaseException | None = None
        self._undelivered: deque[Batch] = deque()
        self._lock = threading.Lock()
        backend = classifier.selection.backend
        newest = [capture.live if options.latest is None else options.latest for capture in captures]
        patient = not any(newest) and not any(capture.live for capture in captures)
        max_wait = None if patient else options.max_wait_ms / 1000
        # a second batch in the engine would be fed with frames that are old when it gets to them
        depth = 1 if any(newest) else backend.depth
        boxes = [
            [Mailbox(item.name, live=item.live, newest=wins, region=name) for name in _region_names(item, options)]
            for item, wins in zip(captures, newest, strict=True)
        ]
        self._links, self.models = _make_links(boxes, classifier, options.batch, depth, max_wait, events)
        self._inference = Inference(self._links, self.models, depth)
        preparation = Preparation(self._links, self.models, options.batch, max_wait, digit=options.digit)
        stages = [
            (f"capture {item.name}", Capturing(self._links, item, own, self._cutter(item, options)).run)
            for item, own in zip(captures, boxes, strict=True)
        ]
        stages += [("preprocess", preparation.run), ("infer", self._inference.run)]
        self._threads = [
            threading.Thread(target=self._guard, args=(run,), name=name, daemon=True) for name, run in stages
        ]
        self._delivery = Delivery(self._links, sinks, answering or Answering())

    def _cutter(self, capture: Capture, options: PipelineOptions) -> RegionCutter:
        regions = options.regions.get(capture.name, ())
        return RegionCutter(regions, self._links.events, live=capture.live, must_fit=options.regions_must_fit)

    def busy(self) -> Mapping[str, float]:
        """Return for how many seconds ``preprocess``, ``infer`` and ``output`` have been in one call, 0 while waiting.

        Any thread may call it, while the stages work or hang.
        """
        now = time.monotonic()
        clocks = self._links.clocks.items()
        return {name: max(0.0, now - since) if (since := clock.since) else 0.0 for name, clock in clocks}

    def ask(self, image: Pixels) -> Future[Prediction]:
        """Let a picture, (H, W, 3) uint8 BGR, go through the engine between the frames; any thread may call it.

        Its prediction is told to no sink and counted nowhere. It is BackendError where the engine failed or the run
        ends, InputError where the picture can't be preprocessed.
        """
        return self._links.intake.ask(image)

    def sources(self) -> tuple[SourceStatus, ...]:
        """Return every source's counts at this moment; any thread may call it."""
        return self._delivery.sources()

    def run(self, stop: threading.Event) -> Summary:
        """Run until every source has ended, ``stop`` is set or a sink asks for the end; then drain and close the sinks.

        Ending early takes two seconds at most: what is in the engine is finished and written, what is before it is
        counted as dropped.

        Raises:
            BackendError: three batches in a row failed.
            BaseException: the first error that a capture, a sink or any thread raised.
        """
        ending: Ending = "finished"
        keep_frame_memory()
        try:
            self._delivery.begin()
            for thread in self._threads:
                thread.start()
            ending = self._serve(stop)
        except BaseException as error:  # raised below, when everything is closed
            self._fail(error)
        deadline = time.monotonic() + DRAIN_TIME
        try:
            self._drain(deadline)
        except BaseException as error:  # raised below too
            self._fail(error)
        self.unfinished = self._join(deadline)
        self.closing = True
        status = self._delivery.status()
        for last in (lambda: self._delivery.finish(status), self._delivery.close):
            self._guard(last)
        if self._error is not None:
            raise self._error
        return Summary(status, ending, self.unfinished)

    def _serve(self, stop: threading.Event) -> Ending:
        delivery, done = self._delivery, self._links.done
        while not stop.is_set():
            batch = self._next_finished(LOOK_INTERVAL)
            if batch is not None:
                delivery.deliver(batch)
            elif done.over or self._error is not None:
                return "finished"
            batch = None  # the next wait must not keep its images in memory
            if time.monotonic() >= delivery.due:
                delivery.look()
            if delivery.closed:
                return "closed"
        return "stopped"

    def _drain(self, deadline: float) -> None:
        """Stop what is before the engine, and write what comes out of it until ``deadline``."""
        self._links.stop()
        while (self._undelivered or not self._links.done.over) and (remaining := deadline - time.monotonic()) > 0:
            batch = self._next_finished(remaining)
            if batch is not None and not self._delivery.broken:
                self._delivery.deliver(batch)

    def _next_finished(self, timeout: float) -> Batch | None:
        if not self._undelivered:
            self._undelivered.extend(self._links.done.get(timeout) or ())
        return self._undelivered.popleft() if self._undelivered else None

    def _join(self, deadline: float) -> tuple[str, ...]:
        """Wait for the threads until ``deadline``, count the frames they left, and name those that still run."""
        self._links.done.end()  # an engine that waits for the outputs need not wait for them any more
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(JOIN_TIME, deadline - time.monotonic()))
        for batches in (*self._links.ready.remains(), self._inference.remains()):
            self._links.give_up(batches)
        return tuple(thread.name for thread in self._threads if thread.is_alive())

    def _guard(self, work: Callable[[], None]) -> None:
        """Do some work; an error of it ends the pipeline, and ``run`` raises the first one at its end."""
        try:
            work()
        except BaseException as error:  # raised by run, on the caller's thread
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self._links.stop()


def _region_names(capture: Capture, options: PipelineOptions) -> list[str]:
    return [region.name for region in options.regions.get(capture.name, ())] or [""]


def _make_links(
    sources: Sequence[Sequence[Mailbox]],
    classifier: Classifier,
    batch: int,
    depth: int,
    max_wait: float | None,
    events: Events,
) -> tuple[Links, Models]:
    fresh = any(box.newest for boxes in sources for box in boxes)
    # several batches go on at a time where each is one small frame that nobody waits for alone
    size = sum(math.prod(shape) for shape in classifier.spec.inputs.values()) * FLOAT_BYTES
    together = WAKE_FRAMES if batch == depth == 1 and max_wait is None and size <= SMALL_BYTES else 1
    # preprocessing writes one batch; where every frame counts, others must be ready when the engine is
    count = depth + (1 if fresh else 2 * together)
    models = Models(classifier, batch, count)
    pace = Pace(max_wait or 0.0)
    if not fresh:
        pace.close()
    links = Links(
        intake=Intake(sources, fresh=batch <= max(map(len, sources)), patient=max_wait is None),
        free=Channel(count, models.slots()),
        ready=Channel(1 if together > 1 else count),
        done=Channel(1 if fresh else 2),
        together=together,
        pace=pace,
        events=events,
    )
    return links, models
