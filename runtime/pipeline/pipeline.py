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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import UsageError
from ..outputs.sink import Sink, SourceStatus, Status
from ..preprocess import Preprocessor
from ..sources.events import Events
from .batch import Batch
from .capturing import Capturing
from .channel import Channel
from .delivery import POLL, Delivery
from .inference import Inference
from .lines import Lines
from .mailbox import ENOUGH, Intake, Mailbox
from .memory import keep_frame_memory
from .meters import Activity
from .pace import Pace
from .preparation import Preparation

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..classifier import Classifier
    from ..sources.capture import Capture

__all__ = ["DRAIN", "Pipeline", "PipelineOptions", "Summary"]

DRAIN = 1.8  # seconds from the wish to stop to the end of ``run``, without the time to close the sinks
FLOAT = 4  # bytes of a float32
SMALL = 2**18  # bytes of a frame's tensors whose engine may take no longer than waking the next stage's thread
LAST = 0.1  # seconds that ``run`` waits for each thread at least

Ending = Literal["finished", "stopped", "closed"]


@dataclass(frozen=True)
class PipelineOptions:
    """This class says how frames are gathered into batches.

    Attributes:
        batch: the most frames that go through the model at once.
        max_wait_ms: how long a live batch waits for more frames after its first, milliseconds; 0: not at all. Batches
            of files alone wait until they are full.
        latest: whether the newest frame wins and others are dropped; None: for live sources alone.

    Raises:
        UsageError: the batch is below 1, or the wait is negative or endless.
    """

    batch: int = 1
    max_wait_ms: float = 0.0
    latest: bool | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.max_wait_ms < float("inf"):
            raise UsageError(
                f"expected a batch of at least 1 and a wait of at least 0 ms, found {self.batch} and {self.max_wait_ms}"
            )


@dataclass(frozen=True)
class Summary:
    """This class says how a run ended.

    Attributes:
        status: the last status, when nothing moved any more.
        ending: every source ended (``finished``), ``stop`` was set (``stopped``), or a sink asked for it (``closed``).
        unfinished: threads that did not end in time, as they hang in a decoder or an engine: leave the process by
            ``os._exit`` then, as the engine can't be closed under them.
    """

    status: Status
    ending: Ending
    unfinished: tuple[str, ...] = ()

    @property
    def classified(self) -> int:
        """The number of frames that went through the model."""
        return sum(source.classified for source in self.status.sources)

    @property
    def dropped(self) -> int:
        """The number of frames that were given up."""
        return sum(source.dropped for source in self.status.sources)

    @property
    def unreadable(self) -> int:
        """The number of frames that could not be read."""
        return sum(source.unreadable for source in self.status.sources)


@dataclass(frozen=True)
class _Plan:
    """This class holds what the options come to for these captures and this backend.

    Attributes:
        batch: the most rows of a batch.
        newest: for each capture, whether its newest frame wins.
        max_wait: seconds for which a batch waits for more frames; None: until it is full.
        depth: the most batches in the engine at once.
        backend: the engine, whose input memory is used.
    """

    batch: int
    newest: tuple[bool, ...]
    max_wait: float | None
    depth: int
    backend: Backend

    @classmethod
    def make(cls, captures: Sequence[Capture], options: PipelineOptions, backend: Backend) -> _Plan:
        newest = tuple(capture.live if options.latest is None else options.latest for capture in captures)
        patient = not any(newest) and not any(capture.live for capture in captures)
        # a second batch in the engine would be fed with frames that are old when it gets to them
        depth = 1 if any(newest) else backend.depth
        return cls(options.batch, newest, None if patient else options.max_wait_ms / 1000, depth, backend)

    def lines(self, captures: Sequence[Capture], events: Events) -> Lines:
        """Make the channels between the stages, with the engine's input memory in them."""
        fresh = any(self.newest)
        together = 1 if fresh else self._together()
        # preprocessing writes one batch; where every frame counts, others must be ready when the engine is
        slots = self.backend.buffers(self.batch, self.depth + (1 if fresh else 2 * together))
        boxes = [
            Mailbox(item.name, live=item.live, newest=wins) for item, wins in zip(captures, self.newest, strict=True)
        ]
        return Lines(
            intake=Intake(boxes, fresh=self.batch == 1, patient=self.max_wait is None),
            free=Channel(len(slots), slots),
            ready=Channel(1 if together > 1 else len(slots)),
            done=Channel(1 if fresh else 2),
            together=together,
            pace=Pace(self.max_wait or 0.0) if fresh else None,
            events=events,
            halt=threading.Event(),
        )

    def _together(self) -> int:
        """Return how many batches go on at a time: several only of one small frame each that nobody waits for alone."""
        size = sum(math.prod(shape) for shape in self.backend.spec.inputs.values()) * FLOAT
        alone = self.batch == self.depth == 1
        return ENOUGH if alone and self.max_wait is None and size <= SMALL else 1


class Pipeline:
    """Runs captures through a classifier, once.

    Args:
        classifier: the model; one thread of the pipeline alone uses its engine until ``run`` returns.
        captures: the sources, at least one.
        sinks: where results go; ``run`` closes them, whatever happens.
        options: how frames are gathered.
        events: where the pipeline and the captures report faults.

    Attributes:
        activity: what each stage is doing: ``capture NAME``, ``preprocess``, ``infer``, ``output``; for any thread.
        unfinished: the threads that hang, known after ``run``, also where it raised; see ``Summary``.

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
    ) -> None:
        if not captures:
            raise UsageError("expected at least one source, found none")
        self.activity = Activity()
        self.unfinished: tuple[str, ...] = ()
        self._error: BaseException | None = None
        self._undelivered: deque[Batch] = deque()
        self._lock = threading.Lock()
        plan = _Plan.make(captures, options, classifier.selection.backend)
        self._lines = plan.lines(captures, events)
        self._inference = Inference(self._lines, self.activity.stage("infer"), plan.backend, plan.depth)
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
            for name, work in self._stages(classifier, captures, plan)
        ]
        output = self.activity.stage("output")
        self._delivery = Delivery(sinks, classifier.labels, self._lines.intake, events, output)

    def _stages(
        self, classifier: Classifier, captures: Sequence[Capture], plan: _Plan
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield each thread's name and what it runs."""
        lines, stage = self._lines, self.activity.stage
        for capture, box in zip(captures, lines.intake.boxes, strict=True):
            name = f"capture {box.name}"
            yield name, Capturing(capture, box, lines, stage(name)).run
        preprocessor = Preprocessor(classifier.spec)
        yield "preprocess", Preparation(lines, stage("preprocess"), preprocessor, plan.batch, plan.max_wait).run
        yield "infer", self._inference.run

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
        deadline = time.monotonic() + DRAIN
        try:
            self._drain(deadline)
        except BaseException as error:  # raised below too
            self._fail(error)
        self.unfinished = self._join(deadline)
        status = self._close()
        if self._error is not None:
            raise self._error
        return Summary(status, ending, self.unfinished)

    def _serve(self, stop: threading.Event) -> Ending:
        delivery, done = self._delivery, self._lines.done
        while not stop.is_set():
            batch = self._finished(POLL)
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
        self._lines.stop()
        while (self._undelivered or not self._lines.done.over) and (remaining := deadline - time.monotonic()) > 0:
            batch = self._finished(remaining)
            if batch is not None and not self._delivery.broken:
                self._delivery.deliver(batch)

    def _finished(self, timeout: float) -> Batch | None:
        """Return the next batch that the engine is done with, or None where none comes within ``timeout`` seconds."""
        if not self._undelivered:
            self._undelivered.extend(self._lines.done.get(timeout) or ())
        return self._undelivered.popleft() if self._undelivered else None

    def _close(self) -> Status:
        """Tell the sinks how the run ended, when nothing moves any more, and close them; return that last status."""
        status = self._delivery.status()
        try:
            self._delivery.finish(status)
        except BaseException as error:  # raised by run, unless there was another before
            self._fail(error)
        try:
            self._delivery.close()
        except BaseException as error:  # raised by run on the same condition
            self._fail(error)
        return status

    def _join(self, deadline: float) -> tuple[str, ...]:
        """Wait for the threads until ``deadline``, count the frames they left, and name those that still run."""
        self._lines.done.end()  # an engine that waits for the outputs need not wait for them any more
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(LAST, deadline - time.monotonic()))
        for batches in (*self._lines.ready.remains(), self._inference.remains()):
            self._lines.give_up(batches)
        return tuple(thread.name for thread in self._threads if thread.is_alive())

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised by run, on the caller's thread
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self._lines.stop()
