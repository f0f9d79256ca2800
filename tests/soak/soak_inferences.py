"""Hundreds of thousands of inferences on a digits bundle, through the whole pipeline.

    PYTHONPATH=tests python tests/soak/soak_inferences.py --count 200000

Memory does not grow after warm-up, threads and descriptors stay as many as they were. How many frames are in memory at
once is a matter of chance, up to what the queues hold; the memory of freed ones is kept, and small blocks settle in it.
So in the warm-up the output pauses now and then and all queues fill: what grows later is no late filling.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import typer
from figures import DESCRIPTORS, THREADS, MeasuringSink, digits_bundle, verdict
from support.live.pipelines import Clip
from support.models.bundles import sample_image

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.outputs.sink import Result, Status
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.sources.events import Events

SLOPE = 1.0  # MiB for each 100,000 inferences
STEP = 100_000
WARM_UP = 0.25  # of the inferences
PAUSE_EVERY, PAUSE = 500, 0.05  # inferences, and seconds, in the warm-up
AHEAD = 500  # so many results before the last, threads begin to end: the source has nothing more to give
HEIGHT, WIDTH = 240, 320


class CountingSink(MeasuringSink):
    """Notes memory, threads and descriptors over the number of results, up to ``last``; pauses up to ``warm``."""

    def __init__(self, warm: float, last: int) -> None:
        super().__init__()
        self.results = 0
        self.warm = warm
        self.last = last

    def write(self, result: Result) -> None:
        self.results += result.prediction is not None
        if self.results % 100 == 0 and self.results <= self.last:
            self.samples.note(self.results)
        if self.results % PAUSE_EVERY == 0 and self.results < self.warm:
            time.sleep(PAUSE)

    def status(self, status: Status) -> None:
        if int(status.seconds) % 60 == 0 and self.samples.count:
            typer.echo(f"{self.results} inferences, {status.fps:.0f}/s, {self.samples.memory[-1]:.2f} MiB", err=True)


def main(count: int = 200_000, batch: int = 1, bundle: Path | None = None, backend: str = "auto") -> None:
    """Classify so many frames, and judge."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Classifier.load(digits_bundle(bundle, Path(folder)), backend=backend, batch_size=batch)
        with opened as classifier:
            judge = CountingSink(WARM_UP * count, count - AHEAD)
            pictures = [sample_image(seed, HEIGHT, WIDTH) for seed in range(16)]
            clip = Clip(pictures[index % 16].copy() for index in range(count))  # each in memory of its own
            pipeline = Pipeline(classifier, [clip], [judge], PipelineOptions(batch), Events())
            summary = pipeline.run(threading.Event())
            variant = classifier.selection.variant.name
    kept = judge.samples.after(WARM_UP * count)
    slope = kept.slope() * STEP
    threads, descriptors = kept.range(THREADS), kept.range(DESCRIPTORS)
    verdict(
        "soak_inferences",
        {
            "inferences": f"{judge.results} ({variant}, batch {batch}, {judge.results / summary.status.seconds:.0f}/s)",
            "memory": f"{kept.memory[0]:.2f} to {kept.memory[-1]:.2f} MiB, {slope:+.3f} MiB per 100,000",
            "threads": f"{threads[0]} to {threads[1]}",
            "descriptors": f"{descriptors[0]} to {descriptors[1]}",
        },
        {
            "inferences": judge.results == count == summary.status.sources[0].classified,
            "memory": slope <= SLOPE,
            "threads": threads[0] == threads[1],
            "descriptors": descriptors[0] == descriptors[1],
        },
    )


if __name__ == "__main__":
    typer.run(main)
