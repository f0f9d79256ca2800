from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hybrid_edge.runtime.service import supervisor
from hybrid_edge.runtime.service.supervisor import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that nobody reads, with no room left."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        ours.bind(str(tmp_path / "notify"))
        ours.setblocking(False)
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"another unit's", str(tmp_path / "notify"))
        yield ours


Start = Callable[..., Notifier]
WATCHED = {"WATCHDOG_USEC": "60000000"}


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return lambda **environment: Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), **environment})


def read(systemd: socket.socket) -> list[str]:
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told += systemd.recv(4096).decode().splitlines()
    return [item for item in told if item != "another unit's"]


def test_what_there_was_no_room_for_is_sent_again_and_only_once(systemd: socket.socket, start: Start) -> None:
    notifier = start(**WATCHED)
    notifier.tell("READY=1", "running")
    assert read(systemd) == []
    for _ in range(3):
        notifier.tell("READY=1", "running")
    assert read(systemd) == ["READY=1", "WATCHDOG=1", "STATUS=running"]


def test_the_watchdog_is_fed_twice_in_its_period_and_the_status_sent_every_two_seconds(
    systemd: socket.socket, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(systemd)
    clock, told = 0.0, {}
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: clock))
    for microseconds in ("500000", "60000000", ""):
        notifier, lines = start(WATCHDOG_USEC=microseconds), []
        for turn in range(96):
            clock = turn / 8
            notifier.tell("", "starting")
            lines += read(systemd)
        told[microseconds] = lines.count("WATCHDOG=1"), lines.count("STATUS=starting")
    assert told == {"500000": (48, 48), "60000000": (6, 6), "": (0, 6)}


def test_a_service_that_stops_is_not_called_ready_after_that(systemd: socket.socket, start: Start) -> None:
    notifier = start(**WATCHED)
    notifier.tell("READY=1", "running")
    read(systemd)
    notifier.tell("STOPPING=1", "stopping")
    notifier.tell("STOPPING=1", "stopping")
    assert read(systemd) == ["STOPPING=1", "WATCHDOG=1", "STATUS=stopping"]


def test_another_process_watchdog_is_left_alone(systemd: socket.socket, start: Start) -> None:
    read(systemd)
    start(**WATCHED, WATCHDOG_PID="1").tell("STOPPING=1", "stopping")
    assert read(systemd) == ["STOPPING=1", "STATUS=stopping"]


def test_without_systemd_nothing_is_sent(systemd: socket.socket) -> None:
    read(systemd)
    Notifier({}).tell("READY=1", "running")
    assert read(systemd) == []
