"""The live pipeline on a video file against its two halves alone: the engine, and decoding with preprocessing.

    python benchmarks/live_throughput.py BUNDLE

The video is generated and encoded (MPEG-4, a moving photograph) before anything is timed. Every case works through as
many frames; a case's time is its own, per frame. What counts is the pipeline's frames a second over those of the slower
half, round by round: both halves share the machine's cores in the pipeline, so the ratio says what it costs to run them
together. How much of that is the machine's (two busy cores, one cache) and not the pipeline's, says the case of both
halves at once, in a process each, with nothing handed over; and the time of all cores that a frame costs in each case:
where the halves' own add up to more than the cores give in the slower half's time, nothing can hold 0.95. The case of
two threads and a queue is the least that one process can do: without order, counts, events, results or a way to stop;
what it takes over the slower half is the interpreter's lock.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import cv2
import numpy as np
import typer
from interleave import RESULTS, Report, Timings, interleave
from photographs import frame

from hybrid_edge.runtime import Classifier, Preprocessor, open_sources
from hybrid_edge.runtime.backends.base import Buffers
from hybrid_edge.runtime.outputs.sink import Result, Sink
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.sources.capture import FileCapture
from hybrid_edge.runtime.sources.events import Events

PHOTOGRAPH = "motorcycle_left.png"
FPS = 30
TARGET = 0.95  # of the slower half: the project's own
ENGINE, DECODING, PIPELINE = "engine alone", "decoding and preprocessing alone", "pipeline"
APART = "both halves at once, a process each"
BARE = "two threads and a queue"


@dataclass(frozen=True)
class Loading:
    """What a bundle is opened with, in this process and in the engine's own."""

    bundle: Path
    backend: str
    precision: str
    batch: int

    def load(self) -> Classifier:
        """The classifier."""
        return Classifier.load(self.bundle, backend=self.backend, precision=self.precision, batch_size=self.batch)


class Count(Sink):
    """A sink that counts."""

    def __init__(self) -> None:
        self.results = 0

    def write(self, result: Result) -> None:
        """One more."""
        self.results += result.prediction is not None


def main(
    bundle: Path,
    batches: str = "1,8",
    frames: int = 300,
    width: int = 640,
    height: int = 480,
    rounds: int = 10,
    warm_up: int = 1,
    backend: str = "auto",
    precision: str = "auto",
    video: Path | None = None,
    as_json: bool = typer.Option(False, "--json", help="The report on stdout as well."),
    out: Path = RESULTS,
) -> None:
    """Time engine, decoding and pipeline, interleaved, for each batch size."""
    report = Report("live_throughput", ("hybrid-edge", "onnxruntime", "numpy", "opencv-python"))
    low = 1.0
    with tempfile.TemporaryDirectory() as folder:
        path = video or write_video(Path(folder) / "video.avi", frames, width, height)
        for batch in map(int, batches.split(",")):
            loading = Loading(bundle, backend, precision, batch)
            with loading.load() as classifier, engine_process(loading, frames) as engine:
                busy: dict[str, list[float]] = defaultdict(list)
                timings = measure(classifier, path, frames, batch, rounds, warm_up, engine, busy)
                ratio = summarize(report, classifier, timings, busy, f"{width}x{height}, batch {batch}")
            low = min(low, ratio)
    report.save(out)
    if as_json:
        print(json.dumps(report.content, indent=2, ensure_ascii=False))
    sys.exit(low < TARGET)


def measure(
    classifier: Classifier,
    path: Path,
    frames: int,
    batch: int,
    rounds: int,
    warm_up: int,
    engine: Connection,
    busy: dict[str, list[float]],
) -> Timings:
    """Seconds a frame of each case; ``engine`` leads to the process that has one of its own.

    ``busy`` gets the seconds of all cores that this process spent on a frame.
    """

    def spent(name: str, case: Callable[[], float]) -> Callable[[], float]:
        def run() -> float:
            before = time.process_time()
            passed = case()
            busy[name].append((time.process_time() - before) / frames)
            return passed

        return run

    cases = {
        ENGINE: lambda: run_engine(classifier, frames, batch),
        DECODING: lambda: decode(classifier, path, frames),
        PIPELINE: lambda: run_pipeline(classifier, path, frames, batch),
        BARE: lambda: run_bare(classifier, path, frames, batch),
    }
    return interleave(
        {name: spent(name, case) for name, case in cases.items()}
        | {APART: lambda: run_apart(classifier, path, frames, engine)},
        rounds=rounds,
        warm_up=warm_up,
    )


def summarize(
    report: Report, classifier: Classifier, timings: Timings, busy: Mapping[str, list[float]], what: str
) -> float:
    """Add one table; returns the pipeline's frames a second over those of the slower half, median of the rounds."""
    halves = [np.median(timings[name]) for name in (ENGINE, DECODING)]
    slower = ENGINE if halves[0] > halves[1] else DECODING
    ratios = np.array(timings[slower]) / np.array(timings[PIPELINE])
    ratio = float(np.median(ratios))
    together = (np.array(timings[ENGINE]) + np.array(timings[DECODING])) / np.array(timings[PIPELINE])
    report.add(
        f"{classifier.spec.image_size} pixels, {classifier.selection.variant.name}, {what}, a frame",
        timings,
        slower,
        frames_a_second={name: round(1 / float(np.median(times)), 1) for name, times in timings.items()},
        pipeline_over_the_slower_half=round(ratio, 3),
        of_rounds_10_to_90_percent=[round(float(value), 3) for value in np.percentile(ratios, (10, 90))],
        two_processes_over_pipeline=round(float(np.median(np.array(timings[APART]) / np.array(timings[PIPELINE]))), 3),
        bare_threads_over_the_slower_half=round(
            float(np.median(np.array(timings[slower]) / np.array(timings[BARE]))), 3
        ),
        one_after_the_other_over_pipeline=round(float(np.median(together)), 3),
        ms_of_all_cores_a_frame={name: round(float(np.median(times)) * 1e3, 3) for name, times in busy.items()},
        target_held=ratio >= TARGET,
    )
    return ratio


def run_engine(classifier: Classifier, frames: int, batch: int) -> float:
    """The engine on full batches of inputs that are there already, as many in flight as it takes."""
    engine = classifier.selection.backend
    slots = engine.buffers(batch, engine.depth)
    rng = np.random.default_rng(0)
    for slot in slots:
        for tensor in slot.tensors.values():
            tensor[...] = rng.uniform(-1, 1, tensor.shape)
    count = max(1, frames // batch)
    begun = time.perf_counter()
    tickets = [engine.submit(slot, batch) for slot in slots[:count]]
    for number in range(count):
        engine.collect(tickets.pop(0))
        if number + len(slots) < count:
            tickets.append(engine.submit(slots[number % len(slots)], batch))
    return (time.perf_counter() - begun) / (count * batch)


def decode(classifier: Classifier, path: Path, frames: int) -> float:
    """Reading the video and preprocessing every frame, in one thread."""
    preprocessor = Preprocessor(classifier.spec)
    tensors = preprocessor.allocate(1)
    begun = time.perf_counter()
    for item in open_sources([path]):
        preprocessor.fill(item.image, tensors, 0)  # type: ignore[arg-type]
    return (time.perf_counter() - begun) / frames


def run_pipeline(classifier: Classifier, path: Path, frames: int, batch: int) -> float:
    """All of it."""
    sink = Count()
    captures = [FileCapture(open_sources([path]), path.name)]
    pipeline = Pipeline(classifier, captures, [sink], PipelineOptions(batch), Events())
    begun = time.perf_counter()
    pipeline.run(threading.Event())
    passed = time.perf_counter() - begun
    assert sink.results == frames, f"expected {frames} results, found {sink.results}"  # noqa: S101
    return passed / frames


def run_bare(classifier: Classifier, path: Path, frames: int, batch: int) -> float:
    """Decoding and preprocessing on one thread, the engine on this one, batches through a queue."""
    engine = classifier.selection.backend
    free: SimpleQueue[Buffers] = SimpleQueue()
    ready: SimpleQueue[tuple[Buffers, int] | None] = SimpleQueue()
    for slot in engine.buffers(batch, engine.depth + 2):
        free.put(slot)

    def feed() -> None:
        preprocessor, rows, slot = Preprocessor(classifier.spec), 0, free.get()
        for item in open_sources([path]):
            preprocessor.fill(item.image, slot.tensors, rows)  # type: ignore[arg-type]
            rows += 1
            if rows == batch:
                ready.put((slot, rows))
                rows, slot = 0, free.get()
        if rows:
            ready.put((slot, rows))
        ready.put(None)

    begun = time.perf_counter()
    feeder = threading.Thread(target=feed)
    feeder.start()
    while (item := ready.get()) is not None:
        slot, rows = item
        engine.collect(engine.submit(slot, rows))
        free.put(slot)
    feeder.join()
    return (time.perf_counter() - begun) / frames


@contextmanager
def engine_process(loading: Loading, frames: int) -> Iterator[Connection]:
    """Another process that runs the engine over as many frames each time it is told to, and answers at the end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve_engine, args=(there, loading, frames), daemon=True)
    process.start()
    there.close()
    try:
        here.recv()  # it has loaded
        yield here
    finally:
        here.close()
        process.join()


def serve_engine(orders: Connection, loading: Loading, frames: int) -> None:
    """The other process, until the pipe is closed."""
    with loading.load() as classifier:
        orders.send(None)
        while True:
            try:
                orders.recv()
            except EOFError:
                return
            orders.send(run_engine(classifier, frames, loading.batch))


def run_apart(classifier: Classifier, path: Path, frames: int, engine: Connection) -> float:
    """Both halves at once, the engine in the other process: until the later of them is through."""
    begun = time.perf_counter()
    engine.send(None)
    decode(classifier, path, frames)
    engine.recv()
    return (time.perf_counter() - begun) / frames


def write_video(path: Path, frames: int, width: int, height: int) -> Path:
    """A photograph that moves behind the picture's frame."""
    larger = frame(PHOTOGRAPH, width + 64, height + 64)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    for number in range(frames):
        left, top = (round(32 + 31 * np.sin(number / period)) for period in (19, 31))
        writer.write(np.ascontiguousarray(larger[top : top + height, left : left + width]))
    writer.release()
    return path


if __name__ == "__main__":
    typer.run(main)
