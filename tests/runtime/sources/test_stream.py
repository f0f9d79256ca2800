"""RTSP from GStreamer's server, a child process, through a relay that fails on request."""

from __future__ import annotations

import base64
import os
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv6Address
from pathlib import Path

import numpy as np
import pytest
from support.streams.reading import BACK, Reading, lose_and_find_again, resources, settled
from support.streams.relay import Relay
from support.streams.servers import MjpegStream, RtspStream, TlsDoor, rtsp_missing, server_context

from hybrid_edge.runtime.errors import ImageError, SourceError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.sources import child
from hybrid_edge.runtime.sources import stream as module
from hybrid_edge.runtime.sources.camera import reading_note
from hybrid_edge.runtime.sources.capture import opener
from hybrid_edge.runtime.sources.child import ChildConnection
from hybrid_edge.runtime.sources.files import open_sources
from hybrid_edge.runtime.sources.names import CaptureOptions, parse_live
from hybrid_edge.runtime.sources.stream import CLOSE_TIMEOUT, MAX_FAILED_READS, OPTIONS_VARIABLE, RtspConnection

needs_server = pytest.mark.skipif(rtsp_missing() is not None, reason=str(rtsp_missing()))

WAIT = 1.5  # seconds that a read may take, and a stop
ASKED_FOR = 60.0  # seconds within which a key frame comes that is asked for, however busy the machine


@pytest.fixture(scope="module")
def stream() -> Iterator[RtspStream]:
    if rtsp_missing() is not None:
        pytest.skip(str(rtsp_missing()))
    with RtspStream() as running:
        yield running


def test_frames_come_with_the_delay_of_one_frame(stream: RtspStream) -> None:
    with Reading(stream.url) as reading:
        reading.wait(30)
        assert reading.last.image.shape == (240, 320, 3)
        assert reading.last.source == stream.url
        ages = list(reading.ages)[-15:]
        assert sorted(ages)[7] < 80  # ms: one period is 40, and FFmpeg's threads would add one each
        assert reading.end() < WAIT
    assert reading.told == []


def test_every_loss_is_said_and_overcome_and_leaves_nothing(
    stream: RtspStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT", 2.5)  # seconds that FFmpeg holds on to a silent session
    before = resources()
    with Reading(stream.url) as reading:
        reading.wait()
        stream.stall(1)
        time.sleep(1)
        assert reading.wait() < time.monotonic() + BACK

        lose_and_find_again(reading, stream, losses=1)

        assert max(reading.waits) < WAIT
        stream.black_hole()
        time.sleep(0.1)
        assert reading.end() < WAIT
    stream.restore()
    assert all(now <= then for now, then in zip(settled(before), before, strict=True)), (resources(), before)


def test_a_server_that_died_and_has_another_resolution_when_it_is_back(stream: RtspStream) -> None:
    with Reading(stream.url) as reading:
        reading.wait()
        stream.kill_server()
        reading.wait_for("lost")
        stream.size = (480, 272)
        stream.start_server()
        started = time.monotonic()
        assert reading.wait() < started + BACK
        assert reading.last.image.shape == (272, 480, 3)
        assert reading.events.count("resized") == 1
        stream.resize(320, 240)  # within the session: goes on
        reading.wait(30)
        stream.corrupt(10)  # pieces of the RTP packets
        reading.wait(60)


def test_a_wrong_path_is_said_without_the_password(stream: RtspStream, capfd: pytest.CaptureFixture[str]) -> None:
    with Reading(stream.url.replace("//", "//anna:geheim@").replace("/live", "/other")) as reading:
        reading.wait_for("lost")
    (event,) = reading.told
    assert event.detail.startswith("the server answers, and gives no video: wrong path, name or password")
    assert "geheim" not in f"{event}"
    assert "anna" not in f"{event}"
    assert event.source == stream.url.replace("/live", "/other")
    assert capfd.readouterr().err == ""


def test_another_kind_of_server_is_said() -> None:
    with MjpegStream() as web, Reading(web.url.replace("http", "rtsp")) as reading:
        reading.wait_for("lost")
    assert "expected an RTSP server, found one that answers" in reading.told[0].detail


def local_addresses() -> list[str]:
    """Addresses of IPv6 that reach this machine, those of a link with their zone."""
    with suppress(OSError):
        lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        found = [(str(IPv6Address(bytes.fromhex(digits))), flags, name) for digits, _, _, _, flags, name in lines]
        return [
            f"{place}%{name}" if place.startswith("fe80") else place for place, flags, name in found if flags <= "80"
        ]
    return []


@needs_server
@pytest.mark.parametrize("kind", [RtspStream, MjpegStream])
def test_ipv6_addresses_are_read_with_zones_too(
    kind: type[RtspStream | MjpegStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = local_addresses()
    if not addresses:
        pytest.skip("needs IPv6")
    for address in addresses:
        monkeypatch.setattr(Relay, "host", address)
        with kind() as stream, Reading(stream.url) as reading:
            reading.wait()
        assert reading.told == []
        if isinstance(stream, MjpegStream):
            assert stream.requests[0]["Host"] == f"[{address.partition('%')[0]}]:{stream.port}"


def has_elements(*names: str) -> bool:
    return all(subprocess.run(["gst-inspect-1.0", "--exists", name], check=False).returncode == 0 for name in names)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a decoder of this machine's in the place of a Jetson's."""

    def replace(name: str) -> None:
        if not has_elements(name):
            pytest.skip(f"needs GStreamer's {name}")
        monkeypatch.setattr(module, "HARDWARE", (name, "videoconvert"))
        module.hardware_decodes.cache_clear()

    yield replace
    monkeypatch.undo()
    module.hardware_decodes.cache_clear()


@needs_server
@pytest.mark.parametrize(("codec", "name"), [(264, "openh264dec"), (265, "libde265dec")])
def test_a_decoder_of_gstreamers_is_taken_where_it_is_and_every_loss_overcome(
    codec: int, name: str, decoder: Callable[[str], None]
) -> None:
    decoder(name)
    if not has_elements(f"x{codec}enc"):
        pytest.skip(f"needs GStreamer's x{codec}enc")
    before = resources()
    with RtspStream(codec=codec) as stream:
        url = stream.url.replace("//", "//anna:ge%22h%23eim@")
        assert reading_note(url) == f"{stream.url}: decoded by {name} (hardware)"
        with Reading(url) as reading:
            reading.wait(20)
            assert reading.last.image.shape == (240, 320, 3)
            assert reading.told == []
            everything = subprocess.run(["ps", "-eo", "args", "ww"], capture_output=True, text=True, check=True).stdout
            assert "gst_launch.py" in everything
            assert "eim" not in everything
            lose_and_find_again(reading, stream, losses=1)
            assert reading.end() < WAIT
            assert max(reading.waits) < WAIT
    assert all(now <= then for now, then in zip(settled(before), before, strict=True))


@needs_server
def test_a_key_frame_is_asked_for_where_they_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_elements("openh264dec"):
        pytest.skip("needs GStreamer's openh264dec")
    monkeypatch.setattr(child, "FIRST_FRAME_TIMEOUT", ASKED_FOR)  # a new connection would ask anew
    with RtspStream(gop=10**5) as stream:
        source = f"gst://rtspsrc location={stream.url} protocols=tcp latency=0 ! application/x-rtp,media=video"
        # the depayloader lets nothing through before a key frame, and the first reader has had the only one
        source += " ! rtph264depay wait-for-keyframe=true ! h264parse ! openh264dec"
        with Reading(source) as first:
            first.wait(seconds=ASKED_FOR)
            with Reading(source) as second:
                second.wait(seconds=ASKED_FOR)
    assert first.told == second.told == []


@needs_server
def test_what_the_hardware_can_not_decode_is_decoded_by_ffmpeg(
    stream: RtspStream, decoder: Callable[[str], None]
) -> None:
    decoder("libde265dec")  # and the stream is H.264
    with Reading(stream.url) as reading:
        reading.wait()
    assert [event.kind for event in reading.told] == ["lost", "reconnected"]
    assert "libde265dec gave no frame, the next try is software's" in reading.told[0].detail


def test_a_jetsons_decoder_is_asked_for_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: object, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two programs stand in for a Jetson's GStreamer; no Jetson was at hand."""
    module.hardware_decodes.cache_clear()
    assert reading_note("rtsp://camera/a") == "rtsp://camera/a: decoded by FFmpeg (software)"
    for name, line in {"gst-inspect-1.0": "echo NVIDIA; echo warning >&2", "gst-launch-1.0": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    module.hardware_decodes.cache_clear()
    assert reading_note("rtsp://camera/a") == "rtsp://camera/a: decoded by nvv4l2decoder (hardware)"
    assert capfd.readouterr() == ("", "")
    assert reading_note("rtsps://camera/a") == "rtsps://camera/a: decoded by FFmpeg (software)"
    started: list[str] = []
    monkeypatch.setattr(module, "_ask", lambda *_: None)
    monkeypatch.setattr(ChildConnection, "__init__", lambda _self, pipeline, *_: started.append(pipeline))
    opener(parse_live("rtsp://anna:a%22b@camera/a"), CaptureOptions())(threading.Event())
    assert started == [
        """rtspsrc location=rtsp://camera/a 'user-id="anna"' 'user-pw="a\\"b"' protocols=tcp latency=0"""
        " ! application/x-rtp,media=video"
        " ! parsebin ! nvv4l2decoder ! nvvidconv ! video/x-raw,format=I420"
    ]


@pytest.mark.parametrize("decode", ["FFmpeg", "openh264dec"])
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a@b:c", "a@b:c"),
        ("50%", "50%"),
        ("%23%2F%3F%20", "#/? "),
        ("p\u00e4%C3%A4", "p\u00e4\u00e4"),
        ("a&b=c;!$'\"\\", "a&b=c;!$'\"\\"),
    ],
)
def test_a_password_reaches_the_server_as_it_was_meant(
    typed: str, meant: str, decode: str, decoder: Callable[[str], None]
) -> None:
    if decode != "FFmpeg":
        decoder(decode)
    found = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                if line.startswith(b"CSeq"):
                    number = line
                elif line.startswith(b"Authorization: Basic "):
                    assert base64.b64decode(line[21:]).decode() == f"anna:{meant}"
                    found.set()
                    return
                elif line == b"\r\n":
                    self.wfile.write(b'RTSP/1.0 401 No\r\nWWW-Authenticate: Basic realm="r"\r\n' + number + b"\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with Reading(f"rtsp://anna:{typed}@127.0.0.1:{server.server_address[1]}/a"):
            assert found.wait(20)
        server.shutdown()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_rtsps_is_read_where_somebody_vouches_for_the_certificate(
    stream: RtspStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = server_context(tmp_path)
    with TlsDoor(context, stream.port) as door:
        url = f"rtsps://localhost:{door.server_address[1]}/live"
        with Reading(url) as reading:
            reading.wait_for("lost")
        assert "nobody vouches for the server's certificate" in reading.told[0].detail
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Reading(url) as reading:
            reading.wait()
        assert reading.told == []
        door.shutdown()


HALF_DEAD = """
import socket, threading, time
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.sources.capture import open_captures
from hybrid_edge.runtime.sources.camera import reading_note
from hybrid_edge.runtime.sources.capture import opener
from hybrid_edge.runtime.sources.child import ChildConnection
from hybrid_edge.runtime.sources.names import CaptureOptions, parse_live
ears = socket.create_server(("127.0.0.1", 0))
ends = []
def serve():
    while True:
        end, _ = ears.accept()
        ends.append(end)
        end.recv(1000)
        if len(ends) == 1:
            end.send(b"RTSP/1.0 200 OK\\r\\nCSeq: 1\\r\\n\\r\\n")
threading.Thread(target=serve, daemon=True).start()
stop = threading.Event()
(capture,) = open_captures([f"rtsp://127.0.0.1:{ears.getsockname()[1]}/live"], CaptureOptions(), Events())
reading = threading.Thread(target=lambda: list(capture.frames(stop)))
reading.start()
while len(ends) < 2:
    time.sleep(0.01)
time.sleep(0.3)
start = time.monotonic()
stop.set()
reading.join()
print(time.monotonic() - start)
"""


def test_a_stop_in_the_middle_of_opening_ends_at_once_and_the_process_too() -> None:
    start = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HALF_DEAD], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert float(ended.stdout) < WAIT
    assert time.monotonic() - start < 7.5  # less than the opening would have taken


@needs_server
def test_streams_that_come_back_together_do_not_wait_for_each_other() -> None:
    """OpenCV opens one capture at a time; where it waits for key frames, the fifth comes after seven seconds."""
    with RtspStream(fps=10, gop=15) as slow, ExitStack() as stack:
        readings = [stack.enter_context(Reading(slow.url)) for _ in range(5)]
        for reading in readings:
            reading.wait()
        slow.kill()
        for reading in readings:
            reading.wait_for("lost")
        slow.restart()
        restarted = time.monotonic()
        assert max(reading.fresh(restarted) for reading in readings) < restarted + BACK


def test_a_server_that_tells_the_resolution_with_the_frames_alone(stream: RtspStream) -> None:
    stream.edit = lambda data: data.replace(b"sprop-parameter-sets", b"xprop-parameter-sets")
    try:
        with Reading(stream.url) as reading:
            reading.wait()
            assert reading.last.image.shape[2] == 3
    finally:
        stream.edit = lambda data: data
    assert reading.told == []
    assert OPTIONS_VARIABLE not in os.environ


def test_every_frame_can_be_asked_for(stream: RtspStream) -> None:
    with Reading(stream.url, CaptureOptions(every_frame=True)) as reading:
        reading.wait(20)
    assert reading.told == []


def test_files_are_opened_without_the_options_of_streams(stream: RtspStream, tmp_path: Path) -> None:
    """With them FFmpeg says that an MPEG-TS has twice as many frames as it has."""
    clip = tmp_path / "clip.ts"
    writer = cv2.VideoWriter(str(clip), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp2v"), 25, (320, 240))
    assert writer.isOpened()
    for number in range(50):
        writer.write(np.random.default_rng(number).integers(0, 256, (240, 320, 3), np.uint8))
    writer.release()
    with Reading(stream.url) as reading:
        reading.wait()
        assert OPTIONS_VARIABLE not in os.environ
        frames = list(open_sources([clip]))
        assert OPTIONS_VARIABLE not in os.environ
    assert [frame.error for frame in frames] == [None] * 50


FRAME = np.zeros((4, 6, 3), np.uint8)


class Scripted:
    """A capture whose reads are given: a frame, None for a read without one, an exception, or an event to wait for."""

    def __init__(self, script: Sequence[object]) -> None:
        self._script: Iterator[object] = iter(script)
        self.reads = 0
        self.released = threading.Event()

    def read(self) -> tuple[bool, object]:
        self.reads += 1
        step = next(self._script, None)
        if isinstance(step, threading.Event):
            step.wait()
            return False, None
        if isinstance(step, Exception):
            raise step
        return step is not None, step

    def release(self) -> None:
        self.released.set()


def connected(*script: object, stop: threading.Event | None = None) -> tuple[RtspConnection, Scripted]:
    scripted = Scripted(script)
    return RtspConnection(scripted, stop or threading.Event(), 2), scripted


def test_damage_costs_what_is_damaged_and_the_end_is_said_once() -> None:
    connection, scripted = connected(FRAME, None, FRAME, cv2.error("bits"), MemoryError(), FRAME)
    assert connection.read() is not None
    with pytest.raises(ImageError, match=r"1 damaged frame$"):
        connection.read()
    assert connection.read() is not None
    with pytest.raises(ImageError, match="the video decoder failed"):
        connection.read()
    with pytest.raises(MemoryError):
        connection.read()
    assert connection.read() is not None
    with pytest.raises(SourceError, match="the server ended the stream"):
        connection.read()
    assert connection.read() is None
    connection.close()
    assert scripted.released.wait(5)
    assert scripted.reads == 6 + MAX_FAILED_READS


def test_a_read_that_hangs_keeps_nobody_waiting_and_gives_the_capture_back_in_the_end() -> None:
    hangs = threading.Event()
    connection, scripted = connected(FRAME, hangs)
    assert connection.patience > 2  # for the first frame
    assert connection.read() is not None
    assert connection.patience == 2
    start = time.monotonic()
    assert connection.read() is None
    connection.close()
    assert time.monotonic() - start < WAIT + CLOSE_TIMEOUT + 1
    assert not scripted.released.is_set()
    hangs.set()
    assert scripted.released.wait(5)
    assert scripted.reads == 2


def test_one_frame_is_read_ahead_and_no_more() -> None:
    connection, scripted = connected(*[FRAME] * 10)
    time.sleep(0.1)
    assert scripted.reads == 1
    connection.read()
    time.sleep(0.1)
    assert scripted.reads == 2
    connection.close()
    assert scripted.released.wait(5)
