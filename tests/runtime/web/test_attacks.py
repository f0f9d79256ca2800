"""Attacks on the live page, each through a socket against the server that a run starts: none gets through."""

import os
import resource
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import pytest
from support.live.web_client import TOKEN, Served

from hybrid_edge.runtime.web import http_server, routes
from hybrid_edge.runtime.web.http_server import MAX_CONNECTIONS

API = "/api/v1/status"


@pytest.mark.parametrize(
    "host",
    [
        "evil.com:{port}",
        "127.evil.com:{port}",
        "127.0.0.1.evil.com:{port}",
        "localhost.evil.com:{port}",
        "evil.com@127.0.0.1:{port}",
        "127.0.0.1:{port}.evil.com",
        "127.0.0.1",
        "127.0.0.1:1",
        "192.168.1.20:{port}",
        "[::2]:{port}",
        "",
        None,
    ],
)
def test_a_foreign_host_is_refused_so_that_rebinding_a_name_gives_nothing(served: Served, host: str | None) -> None:
    for path in (API, "/", "/static/page.css", "/login"):
        answered = served.ask(path, host=None if host is None else host.format(port=served.port))
        assert answered.status in (400, 403)
        assert b"seconds" not in answered.body


def test_two_hosts_are_refused(served: Served) -> None:
    ours = f"Host: 127.0.0.1:{served.port}\r\n"
    sent = f"GET {API} HTTP/1.1\r\n{ours}Host: evil.com\r\nConnection: close\r\n\r\n"
    assert served.say(sent.encode()).status == 400


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_every_name_of_this_machine_is_let_in(served: Served, name: str) -> None:
    assert served.ask(API, host=f"{name}:{served.port}").status == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.com", "null", "http://127.0.0.1", "https://127.0.0.1:{port}", "http://localhost:{port}", "http://127.0.0.1:{port}.evil.com", ""],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/v1/classify"), ("POST", "/login"), ("POST", "/logout"), ("GET", "/api/v1/events"), ("GET", "/api/v1/sources/camera/stream")],
)
def test_a_foreign_origin_is_refused(served: Served, method: str, path: str, origin: str) -> None:
    answered = served.ask(path, method, b"" if method == "POST" else None, origin=origin.format(port=served.port))
    assert answered.status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_what_a_browser_says_comes_from_another_site_is_refused_without_an_origin_too(served: Served, site: str) -> None:
    assert served.ask("/api/v1/classify", "POST", b"x", sec_fetch_site=site).status == 403
    assert served.ask("/api/v1/sources/camera/stream", sec_fetch_site=site, sec_fetch_dest="image").status == 403
    frame = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}
    assert served.ask("/", **frame).status == 403
    assert served.ask("/", **{**frame, "sec_fetch_dest": "document"}).status in (200, 404)  # a link to the page


def test_no_answer_may_be_framed_kept_or_taken_for_something_else(served: Served) -> None:
    for path in ("/", API, "/login", "/nothing", "/api/v1/openapi.json"):
        headers = served.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == ("same-origin" if path == "/login" else "no-referrer")
        assert not {"server", "access-control-allow-origin"} & set(headers)


@pytest.mark.parametrize(
    "path",
    [f"{API}?token={TOKEN}", f"{API}?access_token={TOKEN}", f"/?token={TOKEN}", f"{API}?hybrid_edge_session={TOKEN}"],
)
def test_a_token_in_the_address_is_no_token(guarded: Served, path: str) -> None:
    answered = guarded.ask(path)
    assert answered.status in (303, 401)
    assert "set-cookie" not in answered.headers


@pytest.mark.parametrize(
    "path",
    [
        "/static/../access.py",
        "/static/..%2faccess.py",
        "/static/%2e%2e/access.py",
        "/static/%2e%2e%2faccess.py",
        "/static/..%5caccess.py",
        "/static/%252e%252e%252faccess.py",
        "/static/..%c0%afaccess.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/page.css%00.py",
        "/static/",
        "/static",
        "/api/v1/sources/..%2f..%2f/snapshot",
        "/api/v1/../../etc/passwd",
        "//etc/passwd",
        "http://127.0.0.1/static/../access.py",
    ],
)
def test_no_path_leads_out_of_the_pages_files(served: Served, path: str) -> None:
    answered = served.ask(path)
    assert answered.status in (400, 404)
    assert b"import" not in answered.body
    assert b"root:" not in answered.body


def test_a_body_of_ten_gigabytes_is_refused_by_its_length_alone(served: Served) -> None:
    answered = served.ask("/api/v1/classify", "POST", content_length=str(10 * 10**9))
    assert (answered.status, answered.headers["connection"]) == (413, "close")
    assert "33554432 bytes" in answered.error
    for wrong in ("-1", "1e9", "5, 5000000000"):
        assert served.ask("/api/v1/classify", "POST", content_length=wrong).status == 400


def test_an_endless_body_is_cut_off_once_it_is_too_large(served: Served) -> None:
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    with served.connect() as connection:
        head = f"POST /api/v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 2**28:
                connection.sendall(chunk)
                sent += 2**16
    assert sent < 2**27  # what lies in the sockets' buffers beside the 32 MiB


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
    assert "134217728" in answered.error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def test_five_hundred_slow_connections_take_few_descriptors_and_keep_nobody_out(served: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))
    frames = len(served.kept.results)
    slow = []
    for number in range(500):
        connection = served.connect()
        connection.sendall(b"GET / HTTP/1.1\r\nX: "[: 5 + number % 14])
        slow.append(connection)
    assert served.ask(API).status == 200
    ours = len(os.listdir("/proc/self/fd")) - before - len(slow)
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


def test_headers_without_end_are_refused(served: Served) -> None:
    with served.connect() as connection:
        sent = 0
        connection.sendall(f"GET {API} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n".encode())
        with pytest.raises(ConnectionError):
            while sent < 2**24:
                connection.sendall(b"X-%d: %s\r\n" % (sent, b"a" * 1000))
                sent += 1000
        assert sent < 2**23
    assert served.ask(API, x_large="a" * 2**15).status in (0, 400)
    assert served.ask(f"{API}?{'a' * 2**15}").status in (0, 400)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "POST", "BREW"])
def test_other_methods_do_nothing(served: Served, method: str) -> None:
    assert served.ask(API, method).status in (400, 404, 405)
    assert served.ask("/", method).status in (400, 404, 405)


def test_a_websocket_is_not_opened(served: Served) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13"}
    answered = served.ask(API, **upgrade, sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==", until=b"}")
    assert answered.status == 200  # as if nothing had been asked
    assert "upgrade" not in answered.headers


def test_what_is_no_http_is_refused(served: Served) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"GET\x00 / HTTP/1.1\r\n\r\n", b"\r\n" * 9000):
        assert served.say(sent).status in (0, 400)


def test_smuggled_lengths_are_refused(served: Served) -> None:
    head = f"POST /api/v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n"
    for wrong in ("Content-Length: 5\r\nContent-Length: 6\r\n", "Transfer-Encoding: chunked, identity\r\n"):
        assert served.say((head + wrong + "\r\n").encode() + b"12345").status in (0, 400, 501)


def test_names_with_markup_and_escapes_are_data(served: Served) -> None:
    hostile = next(item for item in served.api("sources") if "img" in item["name"])
    assert hostile["name"].startswith("<img src=x")
    for path in ("sources", "latest", "status", "bundle", "timeline"):
        answered = served.ask(f"/api/v1/{path}")
        assert answered.headers["content-type"] == "application/json"
        assert b"\x1b" not in answered.body
    assert hostile["id"].replace("-", "").replace("_", "").isalnum()
    refused = served.ask(f"/api/v1/latest?source={'%3Cscript%3E'}")
    assert refused.status == 404
    assert b"<script" not in refused.body


def test_answers_cannot_be_split_by_what_is_asked(served: Served) -> None:
    for path in ("/static/x%0d%0aSet-Cookie:%20a=b", "/login%0d%0aLocation:%20http://evil.com", "/%0d%0a"):
        answered = served.ask(path)
        assert answered.status == 404
        assert not {"set-cookie", "location"} & set(answered.headers)


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


def test_a_flood_of_requests_is_slowed_down(served: Served) -> None:
    begun = time.monotonic()
    request = f"GET {API} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    with served.connect() as connection:
        connection.sendall(request * 150)  # all at once: a hundred are answered at once, then fifty a second
        received = b""
        while received.count(b"HTTP/1.1 200") < 150:
            part = connection.recv(2**16)
            assert part
            received += part
    assert time.monotonic() - begun > 0.5


def test_the_picture_bomb_of_the_collected_attacks_is_refused(served: Served) -> None:
    bomb = Path(__file__).parents[4] / "shared" / "cases" / "attacks" / "png-132MP-16KB.png"
    if not bomb.exists():
        pytest.skip("not beside this checkout")
    assert served.ask("/api/v1/classify", "POST", bomb.read_bytes()).status in (200, 415)
