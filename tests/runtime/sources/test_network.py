"""Connections and requests that nobody waits for, and passwords that go nowhere else."""

import base64
import hashlib
import re
import shutil
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.request import parse_http_list, parse_keqv_list

import pytest
from support.streams.reading import Reading, resources, settled
from support.streams.relay import Deaf
from support.streams.servers import MjpegStream, server_context

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.sources import network
from hybrid_edge.runtime.sources.network import connect, http_get


def deadline(seconds: float = 3) -> float:
    return time.monotonic() + seconds


def test_nobody_there_and_nobody_answering_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceError, match=f"no connection to port {port}: connection refused"):
        connect("127.0.0.1", port, threading.Event(), deadline())
    with Deaf() as deaf:
        start = time.monotonic()
        with pytest.raises(SourceError, match=r"no answer from 127\.0\.0\.1 in time"):
            connect("127.0.0.1", deaf.port, threading.Event(), deadline(0.3))
        assert 0.25 < time.monotonic() - start < 1


def test_a_stop_ends_every_wait() -> None:
    stop = threading.Event()
    with Deaf() as deaf, socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Timer(0.2, stop.set).start()
        start = time.monotonic()
        with (
            connect("127.0.0.1", silent.getsockname()[1], stop, deadline(10)) as stream,
            pytest.raises(TimeoutError, match="stopped"),
        ):
            stream.read(1)
        with pytest.raises(SourceError, match="stopped"):
            connect("127.0.0.1", deaf.port, stop, deadline(10))
        assert time.monotonic() - start < 1


def test_a_slow_name_service_keeps_nobody_waiting_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def slow(*_: object, **__: object) -> list[tuple[object, ...]]:
            answer.wait(10)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(network.socket, "getaddrinfo", slow)
        before = resources()
        with pytest.raises(SourceError, match="no answer from camera in time"):
            connect("camera", port, threading.Event(), deadline(0.15))
        stop = threading.Event()
        stop.set()
        with pytest.raises(SourceError, match="stopped"):
            connect("camera", port, stop, deadline())
        answer.set()
        with connect("camera", port, threading.Event(), deadline()) as stream:
            assert stream.address == "127.0.0.1"
        assert all(now <= then for now, then in zip(settled(before), before, strict=True))


def test_a_name_with_several_addresses_is_tried_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "ADDRESS_TIMEOUT", 0.3)
    families = {True: socket.AF_INET6, False: socket.AF_INET}
    with Deaf() as deaf, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        places = [("::1", port), ("127.0.0.9", port), ("127.0.0.1", deaf.port), ("127.0.0.1", port)]

        def answer(*_: object, **__: object) -> list[tuple[object, ...]]:
            return [(families[":" in place[0]], socket.SOCK_STREAM, 6, "", place) for place in places]

        monkeypatch.setattr(network.socket, "getaddrinfo", answer)
        with connect("camera", port, threading.Event(), deadline()) as stream:
            assert stream.address == "127.0.0.1"


@pytest.mark.parametrize("host", ["nothing.invalid", "a" * 70, "null\0"])
def test_an_unknown_host_is_said(host: str) -> None:
    with pytest.raises(SourceError, match="unknown host"):
        connect(host, 80, threading.Event(), deadline(20))


@contextmanager
def serving(accept: Callable[[BaseHTTPRequestHandler], object]) -> Iterator[MjpegStream]:
    """A stream whose server answers in its own way; True lets frames flow."""
    with MjpegStream(fps=50) as stream:
        stream.accept = lambda handler: bool(accept(handler))
        yield stream


def get(url: str) -> None:
    http_get(url, threading.Event(), accept="*/*")[1].close()


def refused(url: str) -> str:
    with pytest.raises(SourceError) as caught:
        get(url)
    return str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\n\n",
        b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.0 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n",
    ],
)
def test_an_answer_is_understood_as_small_cameras_write_it(answer: bytes) -> None:
    def accept(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(answer + b"body")

    with serving(accept) as stream:
        response, connection = http_get(stream.url, threading.Event(), accept="*/*")
        with connection:
            assert response.read1() == b"body"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "expected an HTTP response within 3 s, found 'SSH-2.0-OpenSSH"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "expected 200 OK, found 404 Not Found"),
        (b"", "expected an HTTP response within 3 s, found 'Remote end closed connection"),
        *((b"HTTP/1.0 " + status + b"\r\n\r\n", "found 'HTTP/1.0") for status in (b"9" * 5000, b"-200", b"20", b"x")),
        (b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000, "found 'got more than 100 headers"),
        (b"HTTP/1.0 200 OK\r\nX: " + b"y" * 10**5, "found 'got more than 65536 bytes"),
    ],
)
def test_what_is_no_answer_or_a_refusal_is_quoted(answer: bytes, message: str) -> None:
    def accept(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(answer)

    with serving(accept) as stream:
        assert message in refused(stream.url)


@pytest.mark.parametrize("drip", [b"X", b"X-Field: " + b"y" * 60000 + b"\r\n", b"HTTP/1.0 100 Continue\r\n\r\n"])
def test_an_endless_header_may_take_no_longer_than_the_whole(drip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "HTTP_TIMEOUT", 1.0)

    def accept(handler: BaseHTTPRequestHandler) -> None:
        if drip[:1] == b"X":
            handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        while True:
            handler.wfile.write(drip)
            time.sleep(0.1)

    with serving(accept) as stream:
        start = time.monotonic()
        assert refused(stream.url) == "expected an HTTP response within 1 s, found silence"
        assert time.monotonic() - start < 3


def challenge(handler: BaseHTTPRequestHandler, *challenges: str) -> bool:
    """Ask for the password in these ways; whether it was given in the first of them that is not ``unknown``."""
    wanted = next(item for item in challenges if "unknown" not in item)
    kind, _, rest = str(handler.headers["Authorization"]).partition(" ")
    fits = {
        "Basic": lambda: rest == base64.b64encode(b"anna:ge@heim").decode(),
        "Digest": lambda: digest_fits(handler, parse_keqv_list(parse_http_list(rest)), wanted),
    }
    if wanted.lower().startswith(kind.lower()) and fits[kind]():
        return True
    handler.send_response(401)
    for item in challenges:
        handler.send_header("WWW-Authenticate", item)
    handler.end_headers()
    return False


def digest_fits(handler: BaseHTTPRequestHandler, given: dict[str, str], challenge: str) -> bool:
    """Whether a digest is that of RFC 7616 for anna's password and this request."""
    algorithm = given.get("algorithm", "MD5").upper()
    name = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}[algorithm.removesuffix("-SESS")]

    def hashed(text: str) -> str:
        data = text.encode("latin-1")  # as http.server decodes what came
        return hashlib.new(name, data, usedforsecurity=False).hexdigest()

    realm = re.sub(r"\\(.)", r"\1", re.search(r'realm ?= ?"((?:\\.|[^"])*)"', challenge)[1])
    secret = hashed(f"anna:{realm}:ge@heim")
    if algorithm.endswith("-SESS"):
        secret = hashed(f"{secret}:{given['nonce']}:{given['cnonce']}")
    middle = f"{given['nc']}:{given['cnonce']}:{given['qop']}:" if "qop" in given else ""
    call = f"GET:{handler.path}" + (f":{hashed('')}" if given.get("qop") == "auth-int" else "")
    user = hashed(f"anna:{realm}") if "userhash=true" in challenge else "anna"
    expected = hashed(f"{secret}:{given['nonce']}:{middle}{hashed(call)}")
    answers = (given["realm"], given["username"], given["uri"], given["response"])
    return answers == (realm, user, handler.path, expected) and given.get("opaque", "o") == "o"


DIGEST = 'Digest realm="camera, Basic x", nonce="abc", opaque="o"'
BASIC = 'Basic realm="camera"'


@pytest.mark.parametrize(
    "challenges",
    [
        [BASIC],
        ["Basic"],
        [f'{DIGEST}, qop="auth"', BASIC],
        [f'{DIGEST}, qop="auth-int, auth", algorithm="MD5-sess"'],
        [f'{DIGEST}, qop="auth,auth-int"'],
        [f"{DIGEST}, qop=auth-int"],
        [f'{DIGEST}, qop=""'],
        [f"{DIGEST}, qop"],
        [f"{DIGEST},"],
        [DIGEST],
        [DIGEST.replace("=", " = ") + ", QOP=Auth, Algorithm=md5"],
        [f"{DIGEST}, algorithm=MD5-sess"],
        [f"{DIGEST}, algorithm=sha-256-SESS, qop=auth"],
        [f"{DIGEST}, algorithm=SHA-512-256, qop=auth, userhash=true, charset=UTF-8"],
        ['digest realm="a \\"b\\", c\\\\", nonce="a=b==", qop="auth", stale=FALSE, domain="/ /live"'],
        ['Digest realm="caf\xc3\xa9", nonce="abc", qop="auth", charset="UTF-8"'],
        ['Digest realm="caf\xe9", nonce="abc"'],  # Latin-1, as old servers have it
        [f"{DIGEST}, algorithm=SHA-256, qop=auth", f"{DIGEST}, algorithm=MD5, qop=auth"],
        [f"{DIGEST}, algorithm=SHA-256-sess, qop=auth, {BASIC}"],
        [f"{DIGEST}, algorithm=unknown, qop=auth", f"{DIGEST}, algorithm=MD5, qop=auth"],
        [f"{DIGEST}, algorithm=MD4, {DIGEST}, qop=other, {DIGEST}, qop=auth"],
        [f"{DIGEST}, algorithm=unknown", BASIC],
        ["Negotiate unknown", BASIC],
    ],
)
def test_the_strongest_challenge_that_can_be_answered_is(challenges: list[str]) -> None:
    with serving(lambda handler: challenge(handler, *challenges)) as stream:
        get(stream.url.replace("//", "//anna:ge%40heim@") + "?size=1&n=a b%20\u00e9")
        assert "Authorization" not in stream.requests[0]
        assert stream.requests[1]["path"] == "/live?size=1&n=a%20b%20%C3%A9"
        assert len(stream.requests) == 2


def test_a_nonce_that_has_expired_is_replaced_and_never_for_ever() -> None:
    def accept(handler: BaseHTTPRequestHandler) -> bool:  # a new nonce with each answer
        number = len(stream.requests)
        if number == 3 and 'nonce="n2"' in handler.headers["Authorization"]:
            return challenge(handler, 'Digest realm="r", nonce="n2"')
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", f'Digest realm="r", nonce="n{number}", stale={number > 1}')
        handler.end_headers()
        return False

    with serving(accept) as stream:
        get(stream.url.replace("//", "//anna:ge%40heim@"))
        assert len(stream.requests) == 3
        assert "never takes the password" in refused(stream.url.replace("//", "//anna:ge%40heim@"))
        assert len(stream.requests) < 10


def test_a_password_that_is_wrong_missing_or_wanted_in_an_unknown_way_is_said_and_not_shown() -> None:
    with serving(lambda handler: challenge(handler, BASIC)) as stream:
        with Reading(stream.url.replace("//", "//anna:ge%40heim@")) as reading:
            reading.wait()
        assert reading.last.source == stream.url
        wrong = refused(stream.url.replace("//", "//anna:wrong@"))
        assert wrong == "expected 200 OK, found 401 Unauthorized: wrong name or password"
        assert "the server wants a name and password: http://NAME:PASSWORD@127.0.0.1/" in refused(stream.url)
        stream.accept = lambda handler: challenge(handler, f"{DIGEST}, algorithm=unknown", "Digest other=1")
        unknown = refused(stream.url.replace("//", "//anna:geheim@"))
        assert "in a way that is not known here" in unknown
        assert "geheim" not in unknown


@pytest.mark.parametrize(
    ("location", "kept"),
    [("/there", True), ("https://camera:8443/there", True), ("http://camera/there", False), ("https://other/x", False)],
)
def test_a_redirect_takes_the_password_along_within_tls_only(location: str, kept: bool) -> None:
    assert ("anna:secret@" in network._redirected("https://anna:secret@camera/live", location)) is kept


def redirect(handler: BaseHTTPRequestHandler, location: str, status: int = 302) -> bool:
    handler.send_response(status)
    handler.send_header("Location", location)
    handler.send_header("Set-Cookie", "session=a=b; Path=/; HttpOnly")
    handler.end_headers()
    return False


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["/there?a=caf\xc3\xa9 1", "there?a=caf%C3%A9%201", "//{}/there?a=caf\xc3\xa9 1#x"]
)
def test_a_redirect_is_followed_with_its_cookie_and_the_password(location: str, status: int) -> None:
    def moved(handler: BaseHTTPRequestHandler) -> bool:
        if handler.path == "/live":
            return redirect(handler, location.format(handler.headers["Host"]), status)
        return challenge(handler, BASIC)

    with serving(moved) as stream:
        get(stream.url.replace("//", "//anna:ge%40heim@"))
    assert [request["path"] for request in stream.requests[1:]] == ["/there?a=caf%C3%A9%201"] * 2
    assert [request.get("Cookie") for request in stream.requests] == [None, "session=a=b", "session=a=b"]


def test_neither_password_nor_cookie_go_to_another_host() -> None:
    with MjpegStream() as stream:
        elsewhere = f"http://localhost:{stream.port}/there"
        stream.accept = lambda handler: (
            challenge(handler, BASIC) if handler.path == "/there" else redirect(handler, elsewhere)
        )
        url = stream.url.replace("//", "//anna:ge%40heim@")
        assert "wants a name and password" in refused(url)
        assert {"Authorization", "Cookie"}.isdisjoint(stream.requests[-1])
        stream.accept = lambda handler: redirect(handler, "/live")
        assert "the server redirects in a circle" in refused(url)


@pytest.mark.parametrize("location", ["http://[", "http://]/", "http://host:port/", "ftp://host/", "http://\0/"])
def test_a_redirect_to_nowhere_is_a_loss_and_tried_again(location: str, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(lambda handler: redirect(handler, location)) as stream, Reading(stream.url) as reading:
        reading.wait_for("lost")
        stream.accept = lambda _: True
        reading.wait()
    assert [event.kind for event in reading.told] == ["lost", "reconnected"]
    assert "redirects to something" in reading.told[0].detail or "unknown host" in reading.told[0].detail
    assert "Traceback" not in capfd.readouterr().err


def test_a_server_that_hangs_up_before_tls_begins_is_an_end_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    make = ssl.create_default_context
    with socket.create_server(("127.0.0.1", 0)) as server:

        def make_late() -> ssl.SSLContext:  # a slow device reads its certificates for a while
            accepted, _ = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not ended
            accepted.close()
            return make()

        monkeypatch.setattr(network.ssl, "create_default_context", make_late)
        with pytest.raises(SourceError, match=r"no connection to port \d+: connection reset by peer"):
            connect("127.0.0.1", server.getsockname()[1], threading.Event(), deadline(), tls=True)


def test_a_tls_handshake_that_is_never_answered_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(SourceError, match="no answer from 127"):
            connect("127.0.0.1", silent.getsockname()[1], threading.Event(), deadline(0.3), tls=True)
        assert time.monotonic() - start < 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_certificate_must_be_vouched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, certificate = server_context(tmp_path)
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
