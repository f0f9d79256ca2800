from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.streams.reading import Reading, resources, settled
from support.streams.relay import Deaf
from support.streams.servers import MjpegStream

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.sources import wire
from hybrid_edge.runtime.sources.wire import Wire, resolve


def deadline(seconds: float = 3) -> float:
    return time.monotonic() + seconds


def test_nobody_there_and_nobody_answering_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceError, match=f"no connection to port {port}: connection refused"):
        Wire("127.0.0.1", port, threading.Event(), deadline())
    with Deaf() as deaf:
        start = time.monotonic()
        with pytest.raises(SourceError, match="the host did not accept a connection in time"):
            Wire("127.0.0.1", deaf.port, threading.Event(), deadline(0.3))
        assert 0.25 < time.monotonic() - start < 1


def test_a_stop_ends_every_wait() -> None:
    stop = threading.Event()
    with Deaf() as deaf, socket.create_server(("127.0.0.1", 0)) as silent:
        connection = Wire("127.0.0.1", silent.getsockname()[1], stop, deadline())
        threading.Timer(0.2, stop.set).start()
        start = time.monotonic()
        assert connection.receive(deadline(10)) is None
        connection.close()
        with pytest.raises(SourceError, match="stopped"):
            Wire("127.0.0.1", deaf.port, stop, deadline(10))
        assert time.monotonic() - start < 1


def test_a_slow_name_service_gets_one_thread_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = [], threading.Event()

    def slow(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        answer.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.7", 80))]

    monkeypatch.setattr(wire.socket, "getaddrinfo", slow)
    before = resources()
    for _ in range(3):
        with pytest.raises(SourceError, match="the name service did not answer in time for camera"):
            resolve("camera", 80, threading.Event(), deadline(0.15))
    stop = threading.Event()
    stop.set()
    with pytest.raises(SourceError, match="stopped"):
        resolve("camera", 80, stop, deadline())
    assert asked == ["camera"]
    answer.set()
    assert resolve("camera", 80, threading.Event(), deadline()) == ("127.0.0.7",)
    assert all(now <= then for now, then in zip(settled(before), before, strict=True))


def test_a_name_with_several_addresses_is_tried_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, port)) for address in ("::1", "127.0.0.9", "127.0.0.1", "127.0.0.1")]

    monkeypatch.setattr(wire.socket, "getaddrinfo", answer)
    before = resources()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connection = Wire("camera", port, threading.Event(), deadline())
        assert connection.address == "127.0.0.1"
        connection.close()
    with pytest.raises(SourceError, match=f"no connection to port {port}: connection refused"):
        Wire("camera", port, threading.Event(), deadline())
    assert all(now <= then for now, then in zip(settled(before), before, strict=True))


def test_an_unknown_host_is_said_and_asked_for_anew() -> None:
    for _ in range(2):
        with pytest.raises(SourceError, match=r"unknown host nothing\.invalid"):
            resolve("nothing.invalid", 80, threading.Event(), deadline(20))


def test_a_server_that_hangs_up_before_tls_begins_is_an_end_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    make = ssl.create_default_context
    with socket.create_server(("127.0.0.1", 0)) as server:

        def make_late() -> ssl.SSLContext:  # a slow device reads its certificates for a while
            accepted, _ = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not ended
            accepted.close()
            return make()

        monkeypatch.setattr(wire.ssl, "create_default_context", make_late)
        with pytest.raises(SourceError, match="the connection ended: connection reset by peer"):
            Wire("127.0.0.1", server.getsockname()[1], threading.Event(), deadline(), tls=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_certificate_must_be_vouched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with MjpegStream() as stream:
        stream._server.socket = context.wrap_socket(stream._server.socket, server_side=True)
        url = stream.url.replace("http://", "https://")
        with Reading(url) as reading:
            reading.wait_for("lost")
        assert "nobody vouches for the server's certificate" in reading.told[0].detail
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Reading(url) as reading:
            reading.wait(10)
            stream.stall(0.3)
            time.sleep(0.1)
            reading.wait()
        assert reading.told == []
