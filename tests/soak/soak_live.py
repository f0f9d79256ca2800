"""A camera of 60 frames a second, four times faster than the engine, for minutes.

    PYTHONPATH=tests python tests/soak/soak_live.py --minutes 10

At most two frames wait, results are as fresh as they can be, every frame is accounted for, memory stays flat.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import typer
from figures import MeasuringSink, verdict
from support.live.pipelines import Camera, slowed
from support.models.bundles import make_bundle

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.outputs.sink import Result, Status
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.spec import preset

FPS = 60
SLOWER = 4
PERIOD = 1 / FPS
HEIGHT, WIDTH = 720, 1280
WAITING = 2  # frames
GROWTH = 5.0  # MiB
PERCENTILE = 99


class AgingSink(MeasuringSink):
    """Notes ages, counts and memory as results come."""

    def __init__(self) -> None:
        super().__init__()
        self.ages: list[float] = []
        self.inference: list[float] = []
        self.waiting = 0
        self.wrong = 0
        self.begun = time.monotonic()
        self.pipeline: Pipeline | None = None

    def write(self, result: Result) -> None:
        self.ages.append(result.age_ms)
        if result.prediction is not None:
            self.inference.append(result.prediction.inference_ms)
        self.poll()

    def status(self, status: Status) -> None:
        if int(status.seconds) % 60 == 0:
            memory = self.samples.memory[-1]
            typer.echo(
                f"{status.seconds:.0f} s, {status.fps:.1f}/s, {status.age_p99_ms:.0f} ms, {memory:.1f} MiB", err=True
            )

    def poll(self) -> bool:
        """Count what waits; called 50 times a second and with each result."""
        if self.pipeline is not None:
            (source,) = self.pipeline.sources()
            self.waiting = max(self.waiting, source.waiting)
            done = source.classified + source.dropped + source.unreadable + source.waiting
            self.wrong += source.captured != done
        self.samples.note(time.monotonic() - self.begun)
        return False


def main(minutes: float = 10.0) -> None:
    """Run for so many minutes, and judge."""
    with tempfile.TemporaryDirectory() as folder:
        spec = preset("digits").replace(class_labels=tuple("0123456789"))
        with Classifier.load(make_bundle(Path(folder) / "bundle", spec)) as classifier:
            slowed(classifier, SLOWER * PERIOD)
            judge, stop, camera = AgingSink(), threading.Event(), Camera(FPS, size=(HEIGHT, WIDTH))
            pipeline = judge.pipeline = Pipeline(classifier, [camera], [judge], PipelineOptions(), Events())
            timer = threading.Timer(60 * minutes, stop.set)
            timer.start()
            summary = pipeline.run(stop)
            timer.join()
    (counts,) = summary.status.sources
    inference = float(np.median(judge.inference))
    age, allowed = float(np.percentile(judge.ages, PERCENTILE)), 2000 * PERIOD + inference
    growth = judge.samples.after(min(60.0, 12 * minutes)).growth()
    verdict(
        "soak_live",
        {
            "minutes": f"{summary.status.seconds / 60:.2f}",
            "captured": counts.captured,
            "classified": counts.classified,
            "dropped": counts.dropped,
            "waiting at most": judge.waiting,
            "wrong counts": judge.wrong,
            "age p50": f"{np.percentile(judge.ages, 50):.1f} ms",
            "p99": f"{age:.1f} ms of {allowed:.1f} (inference {inference:.1f})",
            "memory": f"{growth:+.2f} MiB",
        },
        {
            f"{judge.waiting} frames waited": judge.waiting <= WAITING,
            "age of results": age <= allowed,
            "counts": not judge.wrong and counts.captured == counts.classified + counts.dropped,
            "not four times faster": counts.captured >= 0.9 * SLOWER * counts.classified,
            "memory": growth <= GROWTH,
            "threads left": not summary.unfinished,
        },
    )


if __name__ == "__main__":
    typer.run(main)
