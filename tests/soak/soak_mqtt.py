"""A broker that accepts connections and takes nothing, for minutes, beside a pipeline of 25 frames a second.

    PYTHONPATH=tests python tests/soak/soak_mqtt.py --seconds 600

Pictures are noise, an event comes with each frame, a snapshot is asked for each second: the network's buffers are soon
full. No call of the sink takes long, no more frames are given up than in a time before it without MQTT, and
memory, threads and descriptors stay flat.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer
from figures import DESCRIPTORS, THREADS, MeasuringSink, Samples, digits_bundle, verdict
from support.live.pipelines import Camera
from support.streams.mqtt_broker import ACCEPTED, BadBroker

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.frame import Frame
from hybrid_edge.runtime.outputs.mqtt import Mqtt, parse_broker
from hybrid_edge.runtime.outputs.sink import Result, Sink, SourceStatus
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.sources.events import Event, Events

FPS = 25
SIZE = (720, 1280)
PERCENTILE = 99
LONG = 1.0  # ms, of that percentile of the sink's calls
GROWTH = 8.0  # MiB
LOST = 0.01  # of the frames, more than without MQTT
NOISE = np.random.default_rng(1).integers(0, 256, (2, *SIZE, 3), np.uint8)


class NoiseCamera(Camera):
    """Gives pictures that JPEG makes no smaller than a megabyte."""

    def _frame(self, index: int) -> Frame:
        return Frame(self.name, index, NOISE[index % 2], None, True, time.monotonic(), time.time())


class TimedMqtt(Mqtt):
    """The sink under test: notes how long its calls take, and is asked for a snapshot each second."""

    calls: list[float]  # ms
    asked = 0.0

    def write(self, result: Result) -> None:
        begun = time.perf_counter()
        super().write(result)
        self.event(Event("corrupt", result.frame.source, "damaged " * 20, time.time()))
        self.calls.append((time.perf_counter() - begun) * 1000)
        if begun - self.asked >= 1:
            self.asked = begun
            self.received("full/camera/snapshot/request", b"", retained=False)


class Witness(MeasuringSink):
    """Notes memory, threads and descriptors with each result."""

    def write(self, result: Result) -> None:
        self.samples.note(result.frame.captured)


def flow(classifier: Classifier, sinks: Sequence[Sink], seconds: float) -> SourceStatus:
    """Let frames flow for so many seconds; return what became of them."""
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    camera = NoiseCamera(FPS, size=SIZE)
    summary = Pipeline(classifier, [camera], sinks, PipelineOptions(), Events()).run(stop)
    timer.join()
    return summary.status.sources[0]


def main(seconds: float = 600.0, bundle: Path | None = None) -> None:
    """Run for so many seconds, a fifth of them before that without MQTT, and judge."""
    with (
        tempfile.TemporaryDirectory() as folder,
        BadBroker(ACCEPTED) as broker,
        Classifier.load(digits_bundle(bundle, Path(folder))) as classifier,
    ):
        quiet = flow(classifier, [Witness()], seconds / 5)
        witness = Witness()
        sink = TimedMqtt(parse_broker(f"mqtt://127.0.0.1:{broker.port}/full"), ["camera"])
        sink.calls = []
        pressed = flow(classifier, [sink, witness], seconds)
    samples: Samples = witness.samples
    settled = samples.after(samples.at[0] + seconds / 10)
    shares = [status.dropped / max(status.captured, 1) for status in (quiet, pressed)]
    threads, descriptors = settled.range(THREADS), settled.range(DESCRIPTORS)
    longest = float(np.percentile(sink.calls, PERCENTILE))
    verdict(
        "soak_mqtt",
        {
            "seconds": f"{samples.at[-1] - samples.at[0]:.0f}",
            "frames": pressed.captured,
            "dropped": f"{100 * shares[1]:.2f} % ({100 * shares[0]:.2f} % without MQTT)",
            "connections": broker.connections,
            "connections lost": sink.errors,
            "sink's calls p50": f"{np.percentile(sink.calls, 50):.4f} ms",
            "p99": f"{longest:.4f} ms",
            "longest": f"{max(sink.calls):.2f} ms",
            "memory": f"{settled.memory[0]:.1f} MiB, {settled.growth():+.2f}",
            "threads": f"{threads[0]} to {threads[1]}",
            "descriptors": f"{descriptors[0]} to {descriptors[1]}",
        },
        {
            "calls": longest <= LONG,
            "frames lost": shares[1] - shares[0] <= LOST,
            "memory": settled.growth() <= GROWTH,
            "threads": threads[1] - threads[0] <= 1,
            "descriptors": descriptors[1] - descriptors[0] <= 4,  # a connection and its pair, before and after
            "never full": sink.errors > 0,
        },
    )


if __name__ == "__main__":
    typer.run(main)
