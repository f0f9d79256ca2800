"""Corrupt frames and another resolution, of an MJPEG and an RTSP stream at once, through a pipeline with a model."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.streams.servers import MjpegStream, RtspStream, Stream, rtsp_missing

from hybrid_edge.runtime import Classifier, Frame
from hybrid_edge.runtime.outputs.sink import Result, Sink
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions, Summary
from hybrid_edge.runtime.sources.capture import open_captures
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.sources.names import CaptureOptions

FPS = 50
BURSTS = 10
HEADERS = 4 + 12 + 2  # bytes: of the packet in TCP, of RTP, of H.264
LARGER = (480, 272)
PATIENCE = 60  # seconds for what takes one
BACK = 5.0  # seconds within which a good frame is classified


class NewestSink(Sink):
    """A sink that keeps the newest classified frame of each source."""

    def __init__(self) -> None:
        self.newest = dict[str, Frame]()

    def write(self, result: Result) -> None:
        if result.prediction is not None:
            self.newest[result.frame.source] = result.frame


class Spoiler:
    """Damages H.264 in RTP packets that pass, and nothing of what frames them: TCP would not deliver that.

    Attributes:
        left: how many packets are still to be damaged.
    """

    def __init__(self, count: int) -> None:
        self.left = count
        self._random = random.Random(5)

    def __call__(self, data: bytes) -> bytes:
        """The same, with some bytes of each whole packet changed."""
        spoiled, at = bytearray(data), 0
        while data[at : at + 2] == b"$\0" and self.left > 0:
            begin, end = at + HEADERS, at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
            if begin < end <= len(data):
                for _ in range(5):
                    spoiled[self._random.randrange(begin, end)] = self._random.randrange(256)
                self.left -= 1
            at = end
        return bytes(spoiled)


@dataclass
class DamageRun:
    """A pipeline that runs, and how long good frames took to be classified.

    Attributes:
        delays: seconds from the last damage to the next good frame's label.
        packets: damaged ones of RTSP.
    """

    judge: NewestSink
    events: Events
    running: Future[Summary]
    delays: list[float] = field(default_factory=list)
    packets: int = 0

    def until(self, condition: Callable[[], object]) -> bool:
        """Wait until something holds; whether it came to that."""
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline and not self.running.done():
            time.sleep(0.005)
        return bool(condition())

    def good(self, stream: Stream, size: tuple[int, int] | None = None) -> None:
        """Wait until a frame that is captured from now on is classified, of a size (width, height) if one is given."""
        since = time.monotonic()

        def classified() -> bool:
            frame = self.judge.newest.get(stream.url)
            return (
                frame is not None
                and frame.image is not None
                and frame.captured > since
                and size in (None, frame.image.shape[1::-1])
            )

        self.delays.append(time.monotonic() - since if self.until(classified) else math.inf)

    def damage_frames(self, stream: MjpegStream, count: int) -> None:
        """Frames that can't be decoded, in bursts, and another resolution in the end."""
        for burst in range(BURSTS):
            total = count * (burst + 1) // BURSTS
            stream.corrupt(total - count * burst // BURSTS)
            self.until(lambda total=total: self.events.count("corrupt", stream.url) >= total)
            self.good(stream)
        stream.resize(*LARGER)
        self.good(stream, LARGER)

    def damage_bytes(self, stream: RtspStream, count: int) -> None:
        """Packets of H.264, and another resolution in the end, which FFmpeg scales."""
        stream.edit = spoiler = Spoiler(count)
        self.until(lambda: not spoiler.left)
        self.packets = count - spoiler.left
        self.good(stream)
        stream.resize(*LARGER)
        time.sleep(1)
        self.good(stream)


@contextmanager
def course(bundle: Path, streams: Sequence[Stream], pool: ThreadPoolExecutor) -> Iterator[DamageRun]:
    """A pipeline over the streams that classifies each of them, and is stopped in the end."""
    events, judge, stop = Events(), NewestSink(), threading.Event()
    with Classifier.load(bundle) as classifier:
        captures = open_captures([stream.url for stream in streams], CaptureOptions(), events)
        pipeline = Pipeline(classifier, captures, [judge], PipelineOptions(), events)
        begun = DamageRun(judge, events, pool.submit(pipeline.run, stop))
        try:
            for stream in streams:
                begun.good(stream)
            begun.delays.clear()  # those of connecting
            yield begun
        finally:
            stop.set()
            begun.running.result()


def damage(bundle: Path, count: int) -> tuple[dict[str, object], dict[str, bool]]:
    """So many corrupt frames of MJPEG and pieces of RTSP; figures and limits."""
    with ExitStack() as stack:
        web = stack.enter_context(MjpegStream(fps=FPS))
        camera = None if rtsp_missing() else stack.enter_context(RtspStream(fps=FPS))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        with course(bundle, [web, camera] if camera else [web], pool) as run:
            other = pool.submit(run.damage_bytes, camera, count) if camera else None
            run.damage_frames(web, count)
            if other:
                other.result()
    summary = run.running.result()
    sources = summary.status.sources
    counted = all(item.captured == item.classified + item.dropped + item.unreadable for item in sources)
    classified = " + ".join(f"{item.classified} of {item.captured}" for item in sources)
    slowest = max(run.delays)
    return (
        {
            "corrupt frames": f"{sources[0].unreadable}, and {run.packets} packets of RTSP",
            "classified": classified,
            "resized": run.events.count("resized", web.url),
            "next good frame": f"<= {slowest:.2f} s",
        },
        {
            f"{sources[0].unreadable} corrupt frames": sources[0].unreadable == count,
            f"{run.packets} damaged packets": run.packets == (count if camera else 0),
            "frames not counted": counted,
            "resized": run.events.count("resized", web.url) == 1,
            f"a good frame was classified after {slowest:.2f} s": slowest <= BACK,
            "threads left": not summary.unfinished,
        },
    )
