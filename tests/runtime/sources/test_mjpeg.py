"""Motion JPEG, cut from bytes, and from a real server on loopback, through a relay that fails on request."""

import random
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest
from support.streams.reading import BACK, Reading, lose_and_find_again, resources, settled
from support.streams.relay import Deaf, Relay
from support.streams.servers import MjpegStream, picture

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.sources import mjpeg
from hybrid_edge.runtime.sources.mjpeg import MJPEG_PATIENCE, JpegCutter, MjpegConnection
from hybrid_edge.runtime.sources.names import CaptureOptions

WAIT = 1.5  # seconds that a stop may take
JPEGS = [cv2.imencode(".jpg", picture(64, 48, moment))[1].tobytes() for moment in (1, 2, 3)]
CRLF = b"\r\n"


def parts(*bodies: bytes, mark: bytes = b"--frame", length: int | None = 0, kind: bytes = b"image/jpeg") -> bytes:
    """A stream of images whose lengths are wrong by ``length``, or not said."""
    sizes = [b"" if length is None else b"Content-Length: %d\r\n" % (len(body) + length) for body in bodies]
    heads = [mark + b"\r\nContent-Type: " + kind + CRLF + size + CRLF for size in sizes]
    return b"".join(head + body + CRLF for head, body in zip(heads, bodies, strict=True))


def cut(data: bytes, step: int = 1000) -> list[bytes]:
    cutter, found = JpegCutter(), []
    for start in range(0, len(data), step):
        cutter.feed(data[start : start + step])
        while (image := cutter.next()) is not None:
            found.append(image)
    return found


WITH_THUMBNAIL = JPEGS[0][:2] + b"\xff\xe1" + (len(JPEGS[1]) + 2).to_bytes(2, "big") + JPEGS[1] + JPEGS[0][2:]


@pytest.mark.parametrize("step", [1, 7, 1000, 10**6])
@pytest.mark.parametrize(
    "data",
    [
        parts(*JPEGS),
        parts(*JPEGS, length=None),
        parts(*JPEGS, length=-20),
        parts(*JPEGS, length=9999),
        parts(*JPEGS).replace(b"Content-Length: ", b"Content-Length: -"),
        parts(*JPEGS).replace(CRLF, b"\n"),
        parts(*JPEGS, mark=b"----other boundary"),
        parts(*JPEGS, mark=b"no dashes"),
        b"".join(JPEGS),
        parts(b"hello", kind=b"text/plain") + parts(*JPEGS),
        random.Random(1).randbytes(3000) + parts(*JPEGS),
        parts(*(CRLF + data for data in JPEGS)),
    ],
)
def test_images_are_found_however_they_come_and_whatever_is_said_of_them(data: bytes, step: int) -> None:
    assert cut(data, step) == JPEGS


@pytest.mark.parametrize("length", [0, None, -20, 9999])
def test_an_image_is_given_before_the_next_one_begins(length: int | None) -> None:
    data = parts(*JPEGS, length=length)
    assert cut(data[: data.index(JPEGS[0]) + len(JPEGS[0])]) == JPEGS[:1]


@pytest.mark.parametrize("step", [1, 50, 10**6])
def test_a_thumbnail_inside_an_image_is_part_of_it(step: int) -> None:
    assert cut(parts(WITH_THUMBNAIL, JPEGS[2]), step) == [WITH_THUMBNAIL, JPEGS[2]]


@pytest.mark.parametrize("step", [1, 100, 10**6])
@pytest.mark.parametrize("damaged", [JPEGS[0][:-500], JPEGS[0][20:], b"", b"noise" * 50])
def test_a_damaged_image_costs_that_image_only(damaged: bytes, step: int) -> None:
    first, second, *rest = cut(parts(damaged, damaged, *JPEGS), step)
    assert first.rstrip() == second.rstrip() == damaged
    assert rest == JPEGS


def test_an_endless_image_is_given_up_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "MAX_JPEG", 10**5)
    for start in (b"", parts(b""), JPEGS[0][:-2]):
        with pytest.raises(SourceError, match="at most 100000 bytes"):
            cut(start + bytes(3 * 10**5), 10**4)


@pytest.mark.parametrize("line", [b"\n--a:b", b"\n--" + b"a" * 60, b"\xff\xd8\xff\xe0\x00\x02", b"\n"])
def test_a_hostile_stream_costs_no_more_time_than_another(line: bytes) -> None:
    begun = time.process_time()
    assert all(len(image) < 10**6 for image in cut(line * (2**20 // len(line)), 2**16))
    assert time.process_time() - begun < 20  # a search that begins anew at each line would take hours


def test_frames_come_numbered_dated_and_fresh() -> None:
    before = time.time()
    with MjpegStream(fps=50) as stream, Reading(stream.url) as reading:
        reading.wait(40)
        assert reading.end() < WAIT
        frame = reading.last
    assert frame.image.shape == (240, 320, 3)
    assert (frame.source, frame.video, frame.index) == (stream.url, True, reading.frames - 1)
    assert before < frame.timestamp < time.time()
    assert 0 <= time.monotonic() - frame.captured < 5
    assert sorted(reading.ages)[len(reading.ages) // 2] < 20  # ms: nothing waits anywhere
    assert reading.told == []


def test_damaged_frames_are_counted_and_the_next_good_one_comes(capfd: pytest.CaptureFixture[str]) -> None:
    with MjpegStream(fps=60) as stream, Reading(stream.url) as reading:
        reading.wait()
        stream.corrupt(200)
        reading.wait_for("corrupt", count=200)
        reading.wait()
    assert reading.damaged == reading.events.count("corrupt") == 200
    assert {event.kind for event in reading.told} == {"corrupt"}
    assert capfd.readouterr().err == ""


def test_bytes_damaged_anywhere_do_not_end_the_stream() -> None:
    with MjpegStream(fps=500) as stream, Reading(stream.url) as reading:
        reading.wait()
        Relay.corrupt(stream, 50)  # of pixels, of headers, of boundaries
        reading.wait(100)
    assert {event.kind for event in reading.told} <= {"corrupt", "resized"}
    assert reading.damaged > 0


def test_every_loss_is_said_and_overcome_and_leaves_nothing() -> None:
    with MjpegStream() as stream:
        before = resources()
        with Reading(stream.url) as reading:
            reading.wait()
            stream.stall(1)  # which is waited for
            time.sleep(1)
            reading.wait()
            assert (reading.told, stream.accepted) == ([], 1)
            stream.stall(2.3)
            reading.wait_for("stalled")
            assert reading.wait() < time.monotonic() + BACK

            lose_and_find_again(reading, stream, losses=2)

            assert reading.events.count("reconnected") == 3
            assert all(event.seconds for event in reading.told if event.kind == "reconnected")
            assert max(reading.waits) < MJPEG_PATIENCE + WAIT
            stream.black_hole()
            assert reading.end() < WAIT
        stream.kill()
        assert all(now <= then for now, then in zip(settled(before), before, strict=True)), (resources(), before)


def head(handler: BaseHTTPRequestHandler, **fields: str) -> None:
    handler.send_response(200)
    for name, value in fields.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def chunked(handler: BaseHTTPRequestHandler) -> bool:
    write = handler.wfile.write
    head(handler, Transfer_Encoding="chunked", Content_Type="multipart/x-mixed-replace; boundary=frame")
    handler.wfile.write = lambda data: write(b"%x;note=1\r\n" % len(data) + data + CRLF)  # type: ignore[method-assign]
    handler.send_response = handler.send_header = handler.end_headers = lambda *_: None  # type: ignore[method-assign]
    return True


@pytest.mark.parametrize("accept", [chunked, lambda _: True])
def test_a_slow_stream_is_not_taken_for_a_stalled_one(
    accept: Callable[[BaseHTTPRequestHandler], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mjpeg, "MJPEG_PATIENCE", 0.5)
    with MjpegStream(fps=0.8) as stream:
        stream.accept = accept
        with Reading(stream.url, CaptureOptions(fps=0.8)) as reading:
            reading.wait(2)
    assert reading.told == []


@pytest.mark.parametrize("silence", ["deaf", "black hole"])
def test_a_stop_is_not_kept_waiting_by_an_attempt_to_connect(silence: str) -> None:
    with MjpegStream() as stream, Deaf() as deaf:
        stream.black_hole()
        url = stream.url if silence == "black hole" else f"http://127.0.0.1:{deaf.port}/"
        with Reading(url) as reading:
            time.sleep(0.3)
            assert reading.end() < WAIT


def encoded(*flags: int, channels: int = 3) -> bytes:
    image = picture(64, 48, 1)
    return cv2.imencode(".jpg", image if channels == 3 else image[..., 0], flags)[1].tobytes()


def unmarked(data: bytes) -> bytes:
    """Without its end marker."""
    return data.removesuffix(b"\xff\xd9")


STREAM = b"multipart/x-mixed-replace;boundary=foo"
# Huffman's tables left out, as USB cameras do
WITHOUT_TABLES = re.sub(rb"\xff\xc4.*?(?=\xff[\xda\xc0])", b"", JPEGS[0], flags=re.DOTALL)
PLAYED = {
    "boundary in quotes": (STREAM.replace(b"foo", b'"foo"'), parts(*JPEGS, mark=b"--foo")),
    "boundary with its dashes": (STREAM.replace(b"foo", b"--foo"), parts(*JPEGS, mark=b"--foo")),
    "boundary twice dashed": (STREAM.replace(b"foo", b"--foo"), parts(*JPEGS, mark=b"----foo")),
    "another boundary": (STREAM, parts(*JPEGS, mark=b"--bar")),
    "no boundary announced": (b"multipart/x-mixed-replace", parts(*JPEGS)),
    "no boundary before the first part": (STREAM, parts(*JPEGS)[9:]),
    "a preamble": (STREAM, b"This is a stream.\r\n\r\n" + parts(*JPEGS)),
    "a closing boundary after each": (STREAM, parts(*JPEGS).replace(CRLF + b"--frame", CRLF + b"--frame--\r\n--frame")),
    "an empty line after the boundary": (STREAM, parts(*JPEGS).replace(b"--frame\r\n", b"\r\n\r\n--frame\r\n")),
    "no line end after an image": (STREAM, parts(*JPEGS).replace(CRLF + b"--frame", b"--frame")),
    "no fields of parts": (STREAM, b"".join(b"--foo\r\n\r\n" + data + CRLF for data in JPEGS)),
    "many fields": (STREAM, parts(*JPEGS, kind=b"image/jpeg" + b"\r\nX-Timestamp: 1" * 30)),
    "no content type of parts": (STREAM, parts(*JPEGS).replace(b"Content-Type: image/jpeg\r\n", b"")),
    "names in other cases": (STREAM.upper(), parts(*JPEGS).replace(b"Content-Type", b"content-TYPE")),
    "pictures of the type octet-stream": (STREAM, parts(*JPEGS, kind=b"application/octet-stream")),
    "multipart/mixed": (STREAM.replace(b"x-mixed-replace", b"mixed"), parts(*JPEGS)),
    "no content type": (b"", parts(*JPEGS)),
    "no header at all": (None, parts(*JPEGS)),
    "no header at all, nothing between": (None, b"".join(JPEGS)),
    "a content type that can't be": (b"multipart", parts(*JPEGS)),
    "pictures alone, one after the other": (b"video/x-motion-jpeg", b"".join(JPEGS)),
    "pictures alone, as a picture": (b"image/jpeg", b"".join(JPEGS)),
    "fill bytes before and after": (STREAM, parts(*(b"\xff" * 5 + b"\0\0" + data + b"\0" * 7 for data in JPEGS))),
    "no end markers": (STREAM, parts(*map(unmarked, JPEGS))),
    "no end markers, no fields": (STREAM, b"".join(b"--foo\r\n\r\n" + unmarked(data) + CRLF for data in JPEGS)),
    "no end markers, nothing between": (b"video/mjpeg", b"".join(map(unmarked, JPEGS))),
    "a thumbnail": (STREAM, parts(*[WITH_THUMBNAIL] * 3)),
    "a thumbnail and no end markers": (STREAM, parts(*[unmarked(WITH_THUMBNAIL)] * 3)),
    "no Huffman tables": (STREAM, parts(*[WITHOUT_TABLES] * 3)),
    "progressive": (STREAM, parts(*[encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)] * 3)),
    "restart markers": (STREAM, parts(*[encoded(cv2.IMWRITE_JPEG_RST_INTERVAL, 1)] * 3)),
    "gray": (STREAM, parts(*[encoded(channels=1)] * 3)),
}


@pytest.mark.parametrize("form", PLAYED)
def test_every_form_that_a_browser_or_ffmpeg_plays_is_played(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    kind, body = PLAYED[form]

    def serve(handler: BaseHTTPRequestHandler) -> None:
        if kind is not None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Type: " + kind + CRLF) * bool(kind) + CRLF)
        while True:
            handler.wfile.write(body)
            time.sleep(0.02)

    with MjpegStream() as stream:
        stream.accept = serve
        with Reading(stream.url) as reading:
            reading.wait(9)
    assert reading.told == []
    assert reading.damaged == 0
    assert min(abs(reading.last.image.astype(int) - picture(64, 48, moment)).mean() for moment in (1, 2, 3)) < 3
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("length", [True, False])
def test_the_address_of_a_picture_is_asked_for_again_at_the_rate_that_is_wanted(length: bool) -> None:
    def snapshot(handler: BaseHTTPRequestHandler) -> None:
        head(handler, Content_Type="image/jpeg", **({"Content-Length": str(len(JPEGS[0]))} if length else {}))
        handler.wfile.write(JPEGS[0])
        if length:  # some servers keep the connection, whatever was asked
            time.sleep(5)

    with MjpegStream() as stream:
        stream.accept = snapshot
        with Reading(stream.url, CaptureOptions(fps=20)) as reading:
            start = time.monotonic()
            reading.wait(5)
            assert time.monotonic() - start > 0.15
            reading.capture._opener = None  # no connection is opened anew
            reading.wait(5)
        with Reading(stream.url) as reading:  # one a second
            reading.wait(1)
            assert reading.end() < WAIT
    assert reading.told == []


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"Content-Type": "text/html"}, "text/html"),
        ({"Content-Type": "video/mp4"}, "video/mp4"),
        ({"Content-Type": "image/png"}, "image/png"),
        ({"Content-Type": "multipart/mixed", "Content-Encoding": "gzip"}, "multipart/mixed in gzip"),
    ],
)
def test_what_is_no_motion_jpeg_is_refused(fields: dict[str, str], found: str) -> None:
    with MjpegStream() as stream:
        stream.accept = lambda handler: head(handler, **fields)  # type: ignore[func-returns-value]
        with pytest.raises(SourceError) as caught:
            MjpegConnection(stream.url, threading.Event(), CaptureOptions())
    assert str(caught.value) == f"expected motion JPEG (multipart/x-mixed-replace) or a JPEG, found {found}"


@pytest.mark.parametrize("chunk", [b"-5", b"", b"no number", b"0x5", b"9" * 5000])
def test_a_damaged_chunk_is_a_loss_and_the_stream_is_opened_again(chunk: bytes) -> None:
    def damaged(handler: BaseHTTPRequestHandler) -> bool:
        head(handler, Transfer_Encoding="chunked", Content_Type="multipart/x-mixed-replace; boundary=frame")
        handler.wfile.write(chunk + b"\r\nhello\r\n")
        return False

    with MjpegStream(fps=50) as stream:
        stream.accept = damaged
        with Reading(stream.url) as reading:
            reading.wait_for("lost")
            stream.accept = chunked
            reading.wait(10)
    assert [event.kind for event in reading.told] == ["lost", "reconnected"]
    assert "a chunk of the stream is damaged, or was cut off" in reading.told[0].detail
