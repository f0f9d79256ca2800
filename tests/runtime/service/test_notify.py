from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_edge.runtime.service.notify import Notifier


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


@pytest.fixture
def notifier(tmp_path: Path) -> Iterator[Notifier]:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})
    yield notifier
    notifier.close()


def read(systemd: socket.socket) -> list[str]:
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(systemd.recv(4096).decode())
    return [item for item in told if item != "another unit's"]


def test_ready_and_alive_are_sent_again_where_there_was_no_room(systemd: socket.socket, notifier: Notifier) -> None:
    notifier.ready()
    notifier.alive()
    assert read(systemd) == []
    notifier.alive()
    notifier.status("running")
    notifier.alive()
    assert read(systemd) == ["READY=1", "WATCHDOG=1", "STATUS=running"]


def test_a_status_without_room_is_sent_later(systemd: socket.socket, notifier: Notifier) -> None:
    notifier.status("running")
    assert read(systemd) == []
    notifier.status("running")
    assert read(systemd) == ["STATUS=running"]


def test_a_service_that_stops_is_not_called_ready_after_that(systemd: socket.socket, notifier: Notifier) -> None:
    notifier.ready()
    read(systemd)
    notifier.stopping()
    notifier.alive()
    assert read(systemd) == ["STOPPING=1", "WATCHDOG=1"]


def test_another_process_watchdog_is_left_alone(systemd: socket.socket, tmp_path: Path) -> None:
    read(systemd)
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"})
    notifier.alive()
    notifier.stopping()
    notifier.close()
    assert read(systemd) == ["STOPPING=1"]
