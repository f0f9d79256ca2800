"""Ctrl-C under load, again and again, while a video is written.

    PYTHONPATH=tests python tests/soak/soak_interrupts.py --times 30

A stream of 60 frames a second is classified and saved; after a random moment the run is interrupted, in turn by Ctrl-C
typed on its terminal and by SIGINT and SIGTERM to the supervisor. Each time: exit code 130 (SIGTERM: 0), gone within
2 s, no process left, and a video that plays as far as frames were classified.
"""

from __future__ import annotations

import os
import pty
import random
import signal
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import typer
from figures import verdict
from support.live.run import COMMAND, LiveRun, frames_of, processes_of
from support.models.bundles import make_bundle
from support.streams.servers import MjpegStream

LIMIT = 2.0  # seconds
WAYS = {"Ctrl-C": 130, "SIGINT": 130, "SIGTERM": 0}


@dataclass(frozen=True)
class Stop:
    """What one interruption left: times in seconds, counts of frames and processes."""

    way: str
    code: int
    seconds: float
    left: int
    classified: int
    playable: int
    traceback: bool

    @property
    def plays(self) -> bool:
        """Whether nothing is missing but a last frame that was told and not yet written, in a run that was killed."""
        return self.playable >= max(1, self.classified - 1)


def interrupt(url: str, bundle: Path, video: Path, way: str, after: float) -> Stop:
    """Run, interrupt after so many seconds of results, and look at what is left."""
    mark = f"mark-{uuid.uuid4().hex}"
    terminal, theirs = pty.openpty()
    # the run gets the terminal for its own, as under a shell
    program = ("setsid", "--ctty", *COMMAND)
    arguments = (url, "--bundle", bundle, "--headless", "--save", video)
    try:
        with LiveRun(*arguments, program=program, environment={"MARK": mark}, stdin=theirs) as run:
            run.frames(3)
            time.sleep(after)
            begun = time.monotonic()
            if way == "Ctrl-C":
                os.write(terminal, b"\x03")
            else:
                run.process.send_signal(getattr(signal, way))
            code = run.end()
            seconds = time.monotonic() - begun
            left = len(processes_of(mark))
            traceback = any("Traceback" in line for line in run.errors)
            return Stop(way, code, seconds, left, len(run.results), frames_of(video), traceback)
    finally:
        os.close(terminal)
        os.close(theirs)


def main(times: int = 30) -> None:
    """Interrupt so many times."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background ignores it, and what it starts too
    chance = random.Random(11)
    stops = list[Stop]()
    with tempfile.TemporaryDirectory() as name, MjpegStream(640, 480, 60) as stream:
        bundle = make_bundle(Path(name) / "bundle")
        for number in range(times):
            way = list(WAYS)[number % len(WAYS)]
            stops.append(interrupt(stream.url, bundle, Path(name) / f"{number}.mp4", way, chance.uniform(0, 1.5)))
    time.sleep(0.5)  # the server's threads see that nobody listens
    codes = {way: sorted({stop.code for stop in stops if stop.way == way}) for way in WAYS}
    verdict(
        f"{times} interruptions under load",
        {
            "exit codes": ", ".join(f"{way} {found}" for way, found in codes.items()),
            "gone after at most": f"{max(stop.seconds for stop in stops):.2f} s",
            "processes left": sum(stop.left for stop in stops),
            "frames classified": sum(stop.classified for stop in stops),
            "playable": sum(stop.playable for stop in stops),
        },
        {
            "the documented exit codes": all(stop.code == WAYS[stop.way] for stop in stops),
            f"gone within {LIMIT:g} s": all(stop.seconds <= LIMIT for stop in stops),
            "no process left": not any(stop.left for stop in stops),
            "every video plays": all(stop.plays for stop in stops),
            "no traceback": not any(stop.traceback for stop in stops),
        },
    )


if __name__ == "__main__":
    typer.run(main)
