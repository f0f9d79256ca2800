"""Streams that are killed, stalled for 1, 10 and 60 s and black-holed, 50 times each, over MJPEG and RTSP.

    PYTHONPATH=tests python tests/soak/soak_streams.py --repeats 50 --seconds 60

For each fault and kind of stream there is one server with several readers, which lose it and come back together. Every
wait for a frame ends in time; frames made after the stream was back come soon; what a reader uses once it is back, and
what is left when it has ended, is no more than before. Then a pipeline with a model: 1,000 corrupt frames and another
resolution, every frame counted, the next good one classified.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import damaging
import typer
from figures import rss, verdict
from support.models.bundles import make_bundle
from support.streams.reading import Reading, resources, settled
from support.streams.servers import MjpegStream, RtspStream, Stream, rtsp_missing

FPS = 10
READ = 2.5  # seconds that one wait for a frame may take: of Motion JPEG as long as it may go without one
BACK = 5.0  # seconds within which frames flow again
STOP = 1.5  # seconds
DOWN = (0.2, 6.0)  # seconds that a killed stream is away
SWALLOWED = (2.0, 6.0)


def kill(stream: Stream, chance: random.Random) -> None:
    """Connections are reset, new ones refused; RTSP's server is another process afterwards."""
    stream.kill()
    if isinstance(stream, RtspStream):
        stream.kill_server()
    time.sleep(chance.uniform(*DOWN))
    if isinstance(stream, RtspStream):
        stream.start_server()
    stream.restart()


def black_hole(stream: Stream, chance: random.Random) -> None:
    """Connections stay and are dead for ever, those that are made meanwhile too."""
    stream.black_hole()
    time.sleep(chance.uniform(*SWALLOWED))
    stream.restore()


def stall(seconds: float) -> Callable[[Stream, random.Random], None]:
    """Nothing passes for so long; connections stay."""

    def pause(stream: Stream, _: random.Random) -> None:
        stream.stall(seconds)
        time.sleep(seconds)

    return pause


@dataclass(frozen=True)
class Fault:
    """What happens to a stream.

    Attributes:
        name: for people.
        readers: how many read one stream; together they take ``--repeats`` faults.
        happen: makes it happen; returns when the stream is back.
        lasts: seconds, of a stall.
        told: whether an event says that frames flow again; a second without any is no fault.
    """

    name: str
    readers: int
    happen: Callable[[Stream, random.Random], None]
    lasts: float = 0
    told: bool = True


FAULTS = (
    Fault("killed", 5, kill),
    Fault("stalled 1 s", 5, stall(1), 1, told=False),
    Fault("stalled 10 s", 5, stall(10), 10),
    Fault("stalled 60 s", 10, stall(60), 60),
    Fault("black-holed", 5, black_hole),
)


@dataclass
class Group:
    """One stream, its readers, and how they fared.

    Attributes:
        waits: the longest read of each reader and fault, seconds.
        back: seconds until fresh frames came.
        stops: seconds that each reader took to end.
        unsaid: faults that no event told of.
    """

    name: str
    fault: Fault
    stream: Stream
    rounds: int
    readings: list[Reading] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    unsaid: int = 0

    def suffer(self) -> None:
        chance = random.Random(self.name)
        for number in range(self.rounds):
            time.sleep(chance.uniform(0, 1))
            self.fault.happen(self.stream, chance)
            since = time.monotonic()
            self.back += [reading.fresh(since) - since for reading in self.readings]
            self.waits += [max(reading.waits) for reading in self.readings]
            typer.echo(
                f"{self.name} {number + 1}/{self.rounds}: {max(self.back[-len(self.readings) :]):.2f} s", err=True
            )
        if self.fault.told:
            self.unsaid = sum(max(self.rounds - item.events.count("reconnected"), 0) for item in self.readings)

    def end(self) -> None:
        """End half of the readers while frames flow, the others while none do."""
        flowing, silent = self.readings[::2], self.readings[1::2]
        self.stops += [reading.end() for reading in flowing]
        self.stream.black_hole()
        self.stops += [reading.end() for reading in silent]
        self.stream.kill()  # so that the server's ends are noticed

    def figures(self) -> str:
        middle, most = statistics.median(self.back), max(self.back)
        return f"{len(self.back)}, read <= {max(self.waits):.2f} s, back {middle:.2f} <= {most:.2f} s"


@contextmanager
def groups(repeats: int, seconds: float) -> Iterator[list[Group]]:
    """A stream for each fault and kind, each read once to its first frames."""
    kinds: dict[str, Callable[[], Stream]] = {"MJPEG": lambda: MjpegStream(fps=FPS)}
    missing = rtsp_missing()
    if missing is None:
        kinds["RTSP"] = lambda: RtspStream(fps=FPS, gop=FPS)  # a key frame a second
    else:
        typer.echo(f"without RTSP: {missing}")
    with ExitStack() as stack:
        made = []
        for kind, make in kinds.items():
            for fault in FAULTS:
                if fault.lasts <= seconds:
                    rounds = -(-repeats // fault.readers)
                    made.append(Group(f"{kind} {fault.name}", fault, stack.enter_context(make()), rounds))
        for group in made:  # what a library keeps from its first use on is there before anything is counted
            with Reading(group.stream.url) as reading:
                reading.wait(1)
        yield made


def everywhere(action: Callable[[Group], None], parts: Sequence[Group]) -> None:
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(action, parts))


def faults(repeats: int, seconds: float) -> tuple[dict[str, str], dict[str, bool]]:
    with groups(repeats, seconds) as parts, ExitStack() as stack:
        before = resources()
        for group in parts:
            readers = min(repeats, group.fault.readers)
            group.readings = [stack.enter_context(Reading(group.stream.url)) for _ in range(readers)]
        everywhere(lambda group: [reading.wait() for reading in group.readings] and None, parts)
        flowing, memory = settled(before, 1), rss()
        everywhere(Group.suffer, parts)
        again, grown = settled(flowing), rss() - memory
        everywhere(Group.end, parts)
        left = settled(before)
    figures = {group.name: group.figures() for group in parts}
    figures["stop"] = f"<= {max(max(group.stops) for group in parts):.2f} s"
    figures["threads, descriptors, children"] = f"{flowing} flowing, {again} after; {before} idle, {left} after"
    figures["memory"] = f"{grown:+.1f} MiB"
    limits = {f"{group.name}: a read took {max(group.waits):.2f} s": max(group.waits) <= READ for group in parts}
    limits |= {f"{group.name}: back after {max(group.back):.2f} s": max(group.back) <= BACK for group in parts}
    limits |= {f"{group.name}: stopped in {max(group.stops):.2f} s": max(group.stops) <= STOP for group in parts}
    limits |= {f"{group.name}: {group.unsaid} not told of": not group.unsaid for group in parts}
    limits["more in use than before"] = no_more(again, flowing) and no_more(left, before)
    return figures, limits


def no_more(now: Sequence[int], then: Sequence[int]) -> bool:
    return all(here <= there for here, there in zip(now, then, strict=True))


def main(repeats: int = 50, seconds: float = 60.0, corrupt: int = 1000) -> None:
    """So many faults of each kind that last no longer than that, then so many corrupt frames."""
    begun, used = time.monotonic(), os.times()
    figures, limits = faults(repeats, seconds)
    with tempfile.TemporaryDirectory() as folder:
        damage = damaging.damage(make_bundle(Path(folder) / "bundle"), corrupt)
    time.sleep(0.5)  # the servers' threads see that nobody listens
    passed, now = time.monotonic() - begun, os.times()
    cores = (sum(now[:4]) - sum(used[:4])) / passed
    verdict(
        "soak_streams",
        {"minutes": f"{passed / 60:.1f}", "cores": f"{cores:.2f}", **figures, **damage[0]},
        {**limits, **damage[1]},
    )


if __name__ == "__main__":
    typer.run(main)
