"""Too much, too many and too slow for the live page: each through a socket, each bounded, none holds up the run."""

import contextlib
import resource
import socket
import struct
import threading
import zlib
from pathlib import Path

import pytest
from support.live.web_client import TOKEN, Served

from hybrid_edge.runtime.web import http_server, routes
from hybrid_edge.runtime.web.http_server import MAX_CONNECTIONS

API = "/api/v1/status"


def test_a_body_of_ten_gigabytes_is_refused_by_its_length_alone(served: Served) -> None:
    answered = served.ask("/api/v1/classify", "POST", content_length=str(10 * 10**9))
    assert (answered.status, answered.headers["connection"]) == (413, "close")
    assert "33554432 bytes" in answered.error
    for wrong in ("-1", "1e9", "5, 5000000000"):
        assert served.ask("/api/v1/classify", "POST", content_length=wrong).status == 400


def sent_until_refused(connection: socket.socket, part: bytes) -> int:
    """Send a part again and again until the server closes the connection; how many bytes it let us send."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 2**28:
            connection.sendall(part)
            sent += len(part)
    return sent


def test_an_endless_body_is_cut_off_once_it_is_too_large(served: Served) -> None:
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    with served.connect() as connection:
        head = f"POST /api/v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        assert sent_until_refused(connection, chunk) < 2**27  # what lies in the sockets' buffers beside the 32 MiB


def test_a_body_that_comes_too_slowly_is_given_up_and_its_place_is_free(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.web.entrance.BODY_TIME", 0.3)
    head = f"POST /api/v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: 1000\r\n\r\n"
    slow = [served.connect() for _ in range(6)]
    for connection in slow:
        connection.sendall(head.encode() + b"x")
    found = [connection.recv(2**16).split()[1] for connection in slow]
    assert found.count(b"400") >= 4
    assert set(found) <= {b"400", b"429"}  # four places, and no others wait
    for connection in slow:
        connection.close()
    assert served.ask("/api/v1/classify", "POST", b"no picture").status == 415


def png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(side // 8 + 1)) for _ in range(side)) + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_picture_bomb_is_refused_before_it_is_decoded(served: Served) -> None:
    bomb = png_bomb(20_000)  # 400 megapixels: 1.2 GB decoded
    assert len(bomb) < 2**17
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answered = served.ask("/api/v1/classify", "POST", bomb)
    assert answered.status == 415
    assert "found 400000000 (20000x20000), too many" in answered.error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def test_five_hundred_slow_connections_take_few_descriptors_and_keep_nobody_out(served: Served) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    frames = len(served.kept.results)
    slow = []
    for number in range(500):
        connection = served.connect()
        connection.sendall(b"GET / HTTP/1.1\r\nX: "[: 5 + number % 14])
        slow.append(connection)
    assert served.ask(API).status == 200
    ours = len([*Path("/proc/self/fd").iterdir()]) - before - len(slow)
    assert ours <= MAX_CONNECTIONS + 8
    assert served.ask(API).status == 200
    served.until(lambda: len(served.kept.results) > frames, "a frame meanwhile")
    for connection in slow:
        connection.close()


def test_a_connection_without_a_whole_request_is_ended(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "IDLE_TIME", 0.2)
    whole = f"GET {API} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    for begun in (b"", b"GET / HTT", whole + b"G"):
        with served.connect() as connection:
            connection.sendall(begun)
            received = b""
            try:
                while part := connection.recv(2**16):
                    received += part
            except ConnectionResetError:
                pass
            assert (b"200 OK" in received) == (begun[-5:] == b"\r\n\r\nG")


def test_viewers_that_read_nothing_are_given_up_and_hold_up_neither_others_nor_the_run(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.web.entrance.SEND_TIME", 0.5)
    head = f"GET /api/v1/sources/camera/stream HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    idle = []
    for _ in range(routes.MAX_VIEWERS):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        connection.sendall(head)
        idle.append(connection)
    served.until(lambda: served.api("status")["viewers"] == routes.MAX_VIEWERS, "all viewers")
    assert served.ask("/api/v1/sources/camera/stream").status == 503
    frames = len(served.kept.results)
    served.until(lambda: len(served.kept.results) > frames + 5, "frames meanwhile")
    for connection in idle:
        connection.close()
    served.until(lambda: served.api("status")["viewers"] == 0, "the end of all viewers")


def test_logins_that_never_end_keep_nobody_out(guarded: Served) -> None:
    head = f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{guarded.port}\r\nContent-Length: 30\r\n\r\ntoken="
    slow = [guarded.connect() for _ in range(MAX_CONNECTIONS + 8)]
    for connection in slow:
        connection.sendall(head.encode())
    assert guarded.ask(API, authorization=f"Bearer {TOKEN}").status == 200
    assert guarded.ask("/login", "POST", b"token=x").status == 429
    for connection in slow:
        connection.close()
    guarded.until(lambda: guarded.ask("/login", "POST", b"token=x").status == 401, "the end of those logins")


def test_headers_without_end_are_refused(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(f"GET {API} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n".encode())
        assert sent_until_refused(connection, b"X: " + b"a" * 1000 + b"\r\n") < 2**23
    assert served.ask(API, x_large="a" * 2**21).status in (0, 400)
    assert served.ask(f"{API}?{'a' * 2**21}").status in (0, 400)


def test_many_at_once_are_bounded_and_the_rest_is_told_to_wait(served: Served) -> None:
    found: list[int] = []
    asking = [
        threading.Thread(target=lambda: found.append(served.ask("/api/v1/classify", "POST", b"no picture").status))
        for _ in range(12)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert set(found) <= {415, 429}
    assert 429 in found


def test_the_picture_bomb_of_the_collected_attacks_is_refused(served: Served) -> None:
    bomb = Path(__file__).parents[4] / "shared" / "cases" / "attacks" / "png-132MP-16KB.png"
    if not bomb.exists():
        pytest.skip("not beside this checkout")
    assert served.ask("/api/v1/classify", "POST", bomb.read_bytes()).status in (200, 415)
