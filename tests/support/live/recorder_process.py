"""Processes that record: one that is killed in the middle, one whose disk is full, one that may not enter a folder.

Arguments: ``killed`` or ``limited``, and a folder; ``closed``, and a file. Lines on stdout say how far it
came.
"""

import os
import resource
import sys
import time
from pathlib import Path

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.outputs.recorder import Recorder
from hybrid_edge.runtime.outputs.snapshots import Snapshots, parse_condition
from hybrid_edge.runtime.sources.events import Event, Events
from hybrid_edge.runtime.storage import check_writable
from support.live.results import LABELS, make_result


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def killed(folder: Path) -> None:
    """Record until somebody ends this."""
    recorder = Recorder(folder / "out.mp4", live=["cam0"])
    for index in range(10_000):
        recorder.write(make_result(index=index, color=(0, 0, index % 256)))
        say(str(index))
        time.sleep(0.005)


def limited(folder: Path) -> None:
    """Record, and keep snapshots, until neither can be written: files have 30,000 bytes, and one snapshot has fewer."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    events = Events(say_event)
    recorder = Recorder(folder / "out.mp4", events=events, live=["cam0"])
    snapshots = Snapshots(folder / "kept", parse_condition("cat>0.5", LABELS), events=events)
    for index in range(100):
        recorder.write(make_result(index=index))
    snapshots.write(make_result())
    snapshots.write(make_result(index=100, size=(4000, 3000)))
    snapshots.write(make_result(index=200))
    for sink in (recorder, snapshots):
        sink.close()


def closed(path: Path) -> None:
    """Ask whether a file can be recorded to, as a user who may not enter every folder."""
    if os.geteuid() == 0:
        os.setuid(65_534)
    try:
        check_writable("--save", path, ".mp4")
    except UsageError as error:
        say(str(error))


def say_event(event: Event) -> None:
    say(f"{event.kind} {event.source} {event.detail}")


if __name__ == "__main__":
    {"killed": killed, "limited": limited, "closed": closed}[sys.argv[1]](Path(sys.argv[2]))
