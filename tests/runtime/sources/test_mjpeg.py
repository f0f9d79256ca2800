"""Motion JPEG from a real server on loopback, through a relay that fails on request."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.request import parse_http_list, parse_keqv_list

import pytest
from support.streams.reading import BACK, Reading, lose_and_find_again, resources, settled
from support.streams.relay import Deaf
from support.streams.servers import MjpegStream

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.sources import CaptureOptions, capture
from hybrid_edge.runtime.sources.http_get import _redirected
from hybrid_edge.runtime.sources.mjpeg import open_mjpeg

WAIT = 1.5  # seconds that a read may take, and a stop


def test_frames_come_numbered_dated_and_fresh() -> None:
    before = time.time()
    with MjpegStream(fps=50) as stream, Reading(stream.url) as reading:
        reading.wait(40)
        assert reading.end() < WAIT
        frame = reading.last
    assert frame is not None
    assert frame.image is not None
    assert frame.image.shape == (240, 320, 3)
    assert (frame.source, frame.video, frame.index) == (stream.url, True, reading.frames - 1)
    assert before < frame.timestamp < time.time()
    assert 0 <= time.monotonic() - frame.captured < 5
    assert sorted(reading.ages)[len(reading.ages) // 2] < 20  # ms: nothing waits anywhere
    assert reading.told == []


def test_a_server_that_gives_no_lengths_is_not_a_frame_late() -> None:
    with MjpegStream(fps=10, length=False) as stream, Reading(stream.url) as reading:
        reading.wait(8)
    assert sorted(reading.ages)[len(reading.ages) // 2] < 60  # ms, where a period is 100


def test_damaged_frames_are_counted_and_the_next_good_one_comes(capfd: pytest.CaptureFixture[str]) -> None:
    with MjpegStream(fps=1000) as stream, Reading(stream.url) as reading:
        reading.wait()
        stream.corrupt(1000)
        reading.wait_for("corrupt", count=1000)
        reading.wait()
    assert reading.damaged == reading.events.count("corrupt") == 1000
    assert {event.kind for event in reading.told} == {"corrupt"}
    assert capfd.readouterr().err == ""


def test_bytes_damaged_anywhere_do_not_end_the_stream() -> None:
    with MjpegStream(fps=500) as stream, Reading(stream.url) as reading:
        reading.wait()
        stream.relay.corrupt(50)  # of pixels, of headers, of boundaries
        reading.wait(100)
    assert {event.kind for event in reading.told} <= {"corrupt", "resized"}
    assert reading.damaged > 0


def test_another_resolution_goes_on_and_is_said() -> None:
    with MjpegStream(fps=50) as stream, Reading(stream.url) as reading:
        reading.wait()
        stream.resize(480, 270)
        reading.wait_for("resized")
        reading.wait()
    assert reading.last is not None
    assert reading.last.image is not None
    assert reading.last.image.shape == (270, 480, 3)
    assert [(event.kind, event.detail) for event in reading.told] == [("resized", "from 320x240 to 480x270")]


def test_a_stall_of_a_second_is_waited_for() -> None:
    with MjpegStream() as stream, Reading(stream.url) as reading:
        reading.wait()
        stream.stall(1)
        time.sleep(1)
        back = reading.wait() - time.monotonic()
        assert back < 1
    assert reading.told == []
    assert max(reading.waits) < WAIT
    assert stream.relay.accepted == 1


def test_every_loss_is_said_and_overcome_and_leaves_nothing() -> None:
    """Stalled, killed and black-holed: each read ends, frames flow soon after the stream is back, nothing leaks."""
    with MjpegStream() as stream:
        before = resources()
        with Reading(stream.url) as reading:
            reading.wait()
            stream.stall(2.3)
            reading.wait_for("stalled")
            assert reading.wait() < time.monotonic() + BACK

            lose_and_find_again(reading, stream, losses=2)

            assert reading.events.count("reconnected") == 3
            assert all(event.seconds for event in reading.told if event.kind == "reconnected")
            assert max(reading.waits) < WAIT
            stream.black_hole()
            assert reading.end() < WAIT
        stream.kill()
        assert all(now <= then for now, then in zip(settled(before), before, strict=True)), (resources(), before)


def test_a_slow_stream_is_not_taken_for_a_stalled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "PATIENCE", 0.5)
    with MjpegStream(fps=0.8) as stream, Reading(stream.url, CaptureOptions(fps=0.8)) as reading:
        reading.wait(2)
    assert reading.told == []


def test_nobody_there_is_said_once_however_often_it_is_tried() -> None:
    with MjpegStream() as stream:
        stream.kill()
        with Reading(stream.url) as reading:
            time.sleep(1.4)
        (event,) = reading.told
        assert (event.kind, event.source) == ("lost", stream.url)
        assert event.detail == f"no connection to port {stream.relay.port}: connection refused"


@pytest.mark.parametrize("silence", ["deaf", "black hole"])
def test_a_stop_is_not_kept_waiting_by_an_attempt_to_connect(silence: str) -> None:
    with MjpegStream() as stream, Deaf() as deaf:
        stream.black_hole()
        url = stream.url if silence == "black hole" else f"http://127.0.0.1:{deaf.port}/"
        with Reading(url) as reading:
            time.sleep(0.3)
            assert reading.end() < WAIT


def password(handler: BaseHTTPRequestHandler) -> bool:
    expected = "Basic " + base64.b64encode(b"anna:ge@heim").decode()
    if handler.headers["Authorization"] == expected:
        return True
    handler.send_response(401)
    handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
    handler.end_headers()
    return False


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()  # noqa: S324 - what cameras use


def digest(handler: BaseHTTPRequestHandler) -> bool:
    kind, _, rest = str(handler.headers["Authorization"]).partition(" ")
    if kind == "Digest":
        given = parse_keqv_list(parse_http_list(rest))
        ha1, ha2 = (md5(text) for text in ("anna:camera:ge@heim", f"GET:{handler.path}"))
        answer = f"{ha1}:{given['nonce']}:{given['nc']}:{given['cnonce']}:{given['qop']}:{ha2}"
        if given["response"] == md5(answer):
            return True
    handler.send_response(401)
    handler.send_header("WWW-Authenticate", 'Digest realm="camera", nonce="abc", qop="auth"')
    handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
    handler.end_headers()
    return False


@pytest.mark.parametrize("accept", [password, digest])
def test_the_password_in_the_url_is_given_when_asked_for_and_never_shown(accept) -> None:  # type: ignore[no-untyped-def]
    with MjpegStream() as stream:
        stream.accept = accept
        with Reading(stream.url.replace("//", "//anna:ge%40heim@") + "?size=1") as reading:
            reading.wait()
        assert reading.last is not None
        assert reading.last.source == stream.url.replace("//", "//anna:***@") + "?size=1"
        assert "Authorization" not in stream.requests[0]
        with Reading(stream.url.replace("//", "//anna:wrong@")) as reading:
            reading.wait_for("lost")
        assert reading.told[0].detail == "expected 200 OK, found 401 Unauthorized: wrong name or password"
        with Reading(stream.url) as reading:
            reading.wait_for("lost")
        assert "the server wants a name and password" in reading.told[0].detail


def refused(url: str) -> str:
    with pytest.raises(SourceError) as caught:
        open_mjpeg(url, threading.Event(), 2)
    return str(caught.value)


@pytest.mark.parametrize(
    ("location", "kept"),
    [("/there", True), ("https://camera:8443/there", True), ("http://camera/there", False), ("https://other/x", False)],
)
def test_a_redirect_takes_the_password_along_within_tls_only(location: str, kept: bool) -> None:
    assert ("anna:secret@" in _redirected("https://anna:secret@camera/live", location)) is kept


def test_a_redirect_is_followed_and_the_password_does_not_go_to_another_host() -> None:
    def moved(handler: BaseHTTPRequestHandler) -> bool:
        if handler.path == "/there":
            return password(handler)
        handler.send_response(302)
        handler.send_header("Location", "/there" if handler.path == "/live" else f"http://localhost:{port}/there")
        handler.end_headers()
        return False

    with MjpegStream() as stream:
        port = stream.relay.port
        stream.accept = moved
        url = stream.url.replace("//", "//anna:ge%40heim@")
        open_mjpeg(url, threading.Event(), 2).close()
        assert "wants a name and password" in refused(url.replace("/live", "/elsewhere"))
        stream.accept = lambda handler: moved(handler) if handler.path != "/there" else circle(handler)

        def circle(handler: BaseHTTPRequestHandler) -> bool:
            handler.path = "/live"
            return moved(handler)

        assert refused(url) == "the server redirects in a circle"


@pytest.mark.parametrize("location", ["http://[", "http://]/", "http://host:port/", "ftp://host/", "http://\0/"])
def test_a_redirect_to_nowhere_is_a_loss_and_tried_again(location: str, capfd: pytest.CaptureFixture[str]) -> None:
    def moved(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.end_headers()
        return False

    with MjpegStream(fps=50) as stream:
        stream.accept = moved
        with Reading(stream.url) as reading:
            reading.wait_for("lost")
            stream.accept = lambda _: True
            reading.wait()
    assert [event.kind for event in reading.told] == ["lost", "reconnected"]
    assert "redirects to something" in reading.told[0].detail or "unknown host" in reading.told[0].detail
    assert "not expected" not in reading.told[0].detail
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text/html", "expected motion JPEG (multipart/x-mixed-replace), found text/html"),
        ("image/jpeg", "that is one picture, look for the camera's video URL"),
    ],
)
def test_what_is_no_motion_jpeg_is_refused(kind: str, message: str) -> None:
    def page(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        return False

    with MjpegStream() as stream:
        stream.accept = page
        assert message in refused(stream.url)
        stream.accept = lambda handler: bool(handler.send_error(404))
        assert refused(stream.url) == "expected 200 OK, found 404 Not Found"
        stream.accept = lambda handler: bool(handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n"))
        assert "expected an HTTP response, found b'SSH-2.0-OpenSSH'" in refused(stream.url)
        stream.accept = lambda handler: bool(handler.wfile.write(b"HTTP/1.0 200"))  # no header
        assert "expected an HTTP response, found b'HTTP/1.0 200" in refused(stream.url)
        for status in (b"9" * 5000, b"-200", b"2_00", b"20"):
            stream.accept = lambda handler, status=status: bool(
                handler.wfile.write(b"HTTP/1.0 " + status + b"\r\n\r\n")
            )
            assert "expected an HTTP response, found b'HTTP/1.0" in refused(stream.url)


def test_a_stream_in_chunks_is_read() -> None:
    def chunked(handler: BaseHTTPRequestHandler) -> bool:
        write = handler.wfile.write
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        handler.wfile.write = lambda data: write(b"%x\r\n" % len(data) + data + b"\r\n")  # type: ignore[method-assign]
        handler.send_response = handler.send_header = handler.end_headers = lambda *_: None  # type: ignore[method-assign]
        return True

    with MjpegStream(fps=50) as stream:
        stream.accept = chunked
        with Reading(stream.url) as reading:
            reading.wait(10)
    assert reading.told == []


def test_a_damaged_chunk_is_a_loss_and_the_stream_is_opened_again() -> None:
    def chunked(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        handler.wfile.write(b"-5\r\nhello\r\n")
        return False

    with MjpegStream(fps=50) as stream:
        stream.accept = chunked
        with Reading(stream.url) as reading:
            reading.wait_for("lost")
            stream.accept = lambda _: True
            reading.wait()
    assert "size of a chunk" in reading.told[0].detail
