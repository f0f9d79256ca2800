"""Captures, sinks and engines for tests of the pipeline: plain objects with real frames and a real engine inside."""

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid_edge.runtime import Classifier, Frame
from hybrid_edge.runtime.backends.base import Backend, Buffers, Ticket
from hybrid_edge.runtime.errors import BackendError
from hybrid_edge.runtime.frame import Outputs
from hybrid_edge.runtime.outputs.sink import Result, Sink, Status
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions, Summary
from hybrid_edge.runtime.sources.events import Event, Events
from support.models.bundles import sample_image

Image = npt.NDArray[np.uint8]


class Alive:
    """How many images are in memory."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def watch(self, image: Image) -> Image:
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(image, self._gone)
        return image

    def _gone(self) -> None:
        self.now -= 1


@dataclass
class Clip:
    """A file: frames as fast as they are taken; an entry that is a text is a frame that could not be read."""

    entries: Iterable[Image | str]
    name: str = "clip"
    live: bool = False

    def frames(self, _stop: threading.Event) -> Iterator[Frame]:
        for index, entry in enumerate(self.entries):
            if isinstance(entry, str):
                yield Frame(self.name, index, None, entry, video=True, captured=time.monotonic())
            else:
                yield Frame(self.name, index, entry, video=True, captured=time.monotonic())


@dataclass
class Camera:
    """A live source of ``fps`` new frames a second until it is stopped; ``limit`` frames, and then silence."""

    fps: float = 60
    name: str = "camera"
    live: bool = True
    limit: int | None = None
    size: tuple[int, int] = (48, 64)
    broken: Callable[[int], bool] = lambda _: False
    alive: Alive = field(default_factory=Alive)

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        begun = time.monotonic()
        index = 0
        while not stop.wait(max(0.0, begun + index / self.fps - time.monotonic())):
            if self.limit is not None and index >= self.limit:
                stop.wait()
                return
            yield self._frame(index)
            index += 1

    def _frame(self, index: int) -> Frame:
        moment = (time.monotonic(), time.time())
        if self.broken(index):
            return Frame(self.name, index, None, "damaged", True, *moment)
        image = self.alive.watch(np.full((*self.size, 3), index % 256, np.uint8))
        return Frame(self.name, index, image, None, True, *moment)


@dataclass
class KeepingSink(Sink):
    """A sink that keeps what it is told; calls ``on_write`` and ``on_poll``, which may fail or take long."""

    on_write: Callable[[Result], object] = lambda _: None
    on_poll: Callable[[], bool] = lambda: False
    keep_images: bool = True
    results: list[Result] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    closed: int = 0
    threads: set[str] = field(default_factory=set)

    def write(self, result: Result) -> None:
        self.threads.add(threading.current_thread().name)
        self.on_write(result)
        if self.keep_images:
            self.results.append(result)
        else:
            frame = Frame(result.frame.source, result.frame.index, None)
            self.results.append(Result(frame, result.prediction, result.age_ms, result.dropped))

    def event(self, event: Event) -> None:
        self.events.append(event)

    def status(self, status: Status) -> None:
        self.statuses.append(status)

    def poll(self) -> bool:
        self.polls.append(time.monotonic())
        return self.on_poll()

    def close(self) -> None:
        self.closed += 1

    def of(self, name: str) -> list[Result]:
        return [result for result in self.results if result.frame.source == name]


class Slow(Backend):
    """A real engine that takes at least ``seconds`` a batch, and whose n-th batch fails where ``fails`` says so."""

    device = "slow engine"  # type: ignore[assignment]

    def __init__(self, engine: Backend, seconds: float = 0.0, fails: Callable[[int], bool] = lambda _: False) -> None:
        self.engine, self.seconds, self.fails = engine, seconds, fails
        self.batches: list[int] = []
        super().__init__(Path(), engine.spec)

    def _load(self, model: Path, threads: int | None) -> None:
        """The engine is there."""

    def _infer(self, tensors: dict[str, npt.NDArray[np.float32]]) -> tuple[npt.NDArray[np.float32], ...]:  # type: ignore[override]
        until = time.monotonic() + self.seconds
        self.batches.append(len(next(iter(tensors.values()))))
        if self.fails(len(self.batches) - 1):
            raise BackendError("the engine failed: out of order")
        outputs = self.engine.run(tensors)
        time.sleep(max(0.0, until - time.monotonic()))
        return outputs.logits, outputs.probabilities

    def _release(self) -> None:
        self.engine.close()


class Deep(Slow):
    """Takes two batches at once, and computes when a batch is collected."""

    depth = 2  # type: ignore[assignment]
    most = 0

    def submit(self, buffers: Buffers, rows: int) -> Ticket:
        self.inside = getattr(self, "inside", 0) + 1
        self.most = max(self.most, self.inside)
        return Ticket(buffers, rows)

    def collect(self, ticket: Ticket) -> Outputs:
        self.inside -= 1
        return super().collect(super().submit(ticket.buffers, ticket.rows))


class Refusing(Deep):
    """Takes two batches at once, ``seconds`` for each, and refuses where ``fails`` says so, before it computes."""

    def submit(self, buffers: Buffers, rows: int) -> Ticket:
        self.batches.append(rows)
        time.sleep(self.seconds)
        if self.fails(len(self.batches) - 1):
            raise BackendError("the engine refused: out of order")
        return super().submit(buffers, rows)

    def collect(self, ticket: Ticket) -> Outputs:
        self.inside -= 1
        tensors = {name: tensor[: ticket.rows] for name, tensor in ticket.buffers.tensors.items()}
        return self.engine.run(tensors)


def slowed(classifier: Classifier, seconds: float = 0.0, kind: type[Slow] = Slow, **settings: object) -> Slow:
    """Put a slow engine in front of a classifier's own."""
    engine = kind(classifier.selection.backend, seconds, **settings)  # type: ignore[arg-type]
    object.__setattr__(classifier.selection, "backend", engine)
    return engine


def images(count: int, seed: int = 0) -> list[Image]:
    """Different images of different sizes."""
    return [sample_image(seed + number, 20 + number % 7, 31 - number % 5) for number in range(count)]


class Counted(Summary):
    """A run's end with the sums over its sources."""

    @property
    def classified(self) -> int:
        return sum(source.classified for source in self.status.sources)

    @property
    def dropped(self) -> int:
        return sum(source.dropped for source in self.status.sources)

    @property
    def unreadable(self) -> int:
        return sum(source.unreadable for source in self.status.sources)


def run(
    classifier: Classifier,
    captures: Sequence[object],
    *sinks: Sink,
    stop: threading.Event | None = None,
    after: float | None = None,
    events: Events | None = None,
    **options: object,
) -> Counted:
    """Run a pipeline to its end, or until ``after`` seconds."""
    stop = stop or threading.Event()
    pipeline = Pipeline(classifier, captures, sinks, PipelineOptions(**options), events or Events())  # type: ignore[arg-type]
    timer = threading.Timer(after or 60, stop.set)
    timer.start()
    try:
        summary = pipeline.run(stop)
        return Counted(summary.status, summary.ending, summary.unfinished)
    finally:
        timer.cancel()
        timer.join()


def balanced(status: Status) -> bool:
    """Whether every source's counts add up."""
    return all(
        item.captured == item.classified + item.dropped + item.unreadable + item.waiting for item in status.sources
    )


def settled(summary: Summary) -> bool:
    """Whether every frame that was captured is accounted for."""
    return balanced(summary.status) and all(source.waiting == 0 for source in summary.status.sources)


def stage_threads() -> list[str]:
    """Threads of pipelines that still run."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("preprocess", "infer") or name.startswith("capture ")]
