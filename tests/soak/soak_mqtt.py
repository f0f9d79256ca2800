"""A broker that accepts connections and takes nothing, for minutes, beside a pipeline of 25 frames a second.

    PYTHONPATH=tests python tests/soak/soak_mqtt.py --seconds 600

Pictures are noise, an event comes with each frame, a snapshot is asked for each second: the network's buffers are soon
full. Every other ten seconds the sink is left alone, for comparison on the same machine at the same time. No call of it
takes long, no more frames are given up for it, and memory, threads and descriptors stay flat.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import typer
from figures import DESCRIPTORS, THREADS, Samples, digits_bundle, verdict
from support.live.pipelines import Camera
from support.streams.mqtt_broker import ACCEPTED, BadBroker

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.frame import Frame
from hybrid_edge.runtime.outputs.mqtt import Broker, Mqtt, parse_broker
from hybrid_edge.runtime.outputs.sink import Result
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.sources.events import Event, Events

FPS = 25
SIZE = (720, 1280)
PERCENTILE = 99
LONG = 1.0  # ms, of that percentile of the sink's calls
GROWTH = 8.0  # MiB
LOST = 0.01  # of the frames, more than while it is left alone
TURN = 10.0  # seconds
NOISE = np.random.default_rng(1).integers(0, 256, (2, *SIZE, 3), np.uint8)


class NoiseCamera(Camera):
    """Gives pictures that JPEG makes no smaller than a megabyte."""

    def _frame(self, index: int) -> Frame:
        return Frame(self.name, index, NOISE[index % 2], None, True, time.monotonic(), time.time())


class TimedMqtt(Mqtt):
    """The sink under test: notes how long its calls take and what was given up, with and without being used."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker, ["camera"])
        self.samples = Samples()
        self.calls: list[float] = []  # ms
        self.captured, self.dropped = [0, 0], [0, 0]  # left alone, used
        self._before = 0
        self._asked = 0.0

    def write(self, result: Result) -> None:
        begun = time.perf_counter()
        used = int(begun / TURN) % 2
        dropped = result.dropped - self._before
        self._before = result.dropped
        self.dropped[used] += dropped
        self.captured[used] += dropped + 1
        if used:
            super().write(result)
            self.event(Event("corrupt", result.frame.source, "damaged " * 20, time.time()))
            self.calls.append((time.perf_counter() - begun) * 1000)
            if begun - self._asked >= 1:
                self._asked = begun
                self.received("full/camera/snapshot/request", b"", retained=False)
        self.samples.note(result.frame.captured)


def main(seconds: float = 600.0, bundle: Path | None = None) -> None:
    """Run for so many seconds, and judge."""
    with (
        tempfile.TemporaryDirectory() as folder,
        BadBroker(ACCEPTED) as broker,
        Classifier.load(digits_bundle(bundle, Path(folder))) as classifier,
    ):
        stop, camera = threading.Event(), NoiseCamera(FPS, size=SIZE)
        sink = TimedMqtt(parse_broker(f"mqtt://127.0.0.1:{broker.port}/full"))
        timer = threading.Timer(seconds, stop.set)
        timer.start()
        Pipeline(classifier, [camera], [sink], PipelineOptions(), Events()).run(stop)
        timer.join()
    samples = sink.samples
    settled = samples.after(samples.at[0] + max(seconds / 10, 2.5 * TURN))  # libraries start threads at first use
    shares = [dropped / max(captured, 1) for dropped, captured in zip(sink.dropped, sink.captured, strict=True)]
    threads, descriptors = settled.range(THREADS), settled.range(DESCRIPTORS)
    longest = float(np.percentile(sink.calls, PERCENTILE))
    verdict(
        "soak_mqtt",
        {
            "seconds": f"{samples.at[-1] - samples.at[0]:.0f}",
            "frames": sum(sink.captured),
            "dropped": f"{100 * shares[1]:.2f} % ({100 * shares[0]:.2f} % while it is left alone)",
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
            "never given up": sink.errors > 0,
        },
    )


if __name__ == "__main__":
    typer.run(main)
