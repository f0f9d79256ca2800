"""Pipelines in a child process, with videotestsrc where a Jetson has its sensor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.streams.reading import Reading, resources, settled
from support.streams.servers import RtspStream, age_ms, rtsp_missing

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.sources import CaptureOptions, gstreamer
from hybrid_edge.runtime.sources.gstreamer import csi_pipeline, open_child, rtsp_pipeline

pytestmark = pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="needs gstreamer1.0-tools")

SMPTE = "gst://videotestsrc is-live=true pattern=smpte ! video/x-raw,width=320,height=240,framerate=50/1"
WAIT = 1.5  # seconds that a read may take, and a stop


def children() -> list[int]:
    """Our ``gst-launch-1.0``s, by their ids."""
    names = ["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="]
    found = subprocess.run(names, capture_output=True, text=True, check=False).stdout.splitlines()
    return [int(line.split()[0]) for line in found if line.split()[1].startswith("gst-launch")]


def refused(pipeline: str) -> str:
    with pytest.raises(SourceError) as caught:
        open_child(pipeline, CaptureOptions(), threading.Event())
    return str(caught.value)


def test_frames_come_through_the_pipe_in_their_colours() -> None:
    before = resources()
    with Reading(SMPTE) as reading:
        reading.wait(20)
        assert reading.last is not None
        image = reading.last.image
        assert reading.end() < WAIT
    assert image is not None
    assert image.shape == (240, 320, 3)
    gray, yellow, cyan = image[50, 20], image[50, 70], image[50, 110]  # of a SMPTE test picture, BGR
    assert int(gray.max()) - int(gray.min()) < 4
    assert yellow[0] < 20
    assert yellow[1] > 150
    assert cyan[2] < 20
    assert cyan[0] > 150
    assert reading.told == []
    assert all(now <= then for now, then in zip(settled(before), before, strict=True))


def test_a_size_and_a_rate_are_had_where_they_are_asked_for() -> None:
    with Reading(SMPTE, CaptureOptions(width=161, height=121, fps=10)) as reading:
        reading.wait(12)
    assert reading.last is not None
    assert reading.last.image is not None
    assert reading.last.image.shape == (121, 161, 3)
    seconds = reading.moments[-1] - reading.moments[1]
    assert (len(reading.moments) - 2) / seconds < 15


def test_every_frame_is_given_where_none_may_be_left_out() -> None:
    connection = open_child(
        "videotestsrc num-buffers=60 ! video/x-raw,width=640,height=480",
        CaptureOptions(every_frame=True),
        threading.Event(),
    )
    images = [connection.read() for _ in range(60)]
    with pytest.raises(SourceError, match="there were no more frames"):
        connection.read()
    connection.close()
    assert all(image is not None for image in images)


def test_another_resolution_never_mixes_pixels() -> None:
    two = "concat name=c videotestsrc num-buffers=9 pattern=white ! video/x-raw,width=320,height=240 ! c. "
    two += "videotestsrc num-buffers=9 pattern=white ! video/x-raw,width=241,height=319 ! c. c."
    connection = open_child(two, CaptureOptions(every_frame=True), threading.Event())
    images = [connection.read() for _ in range(18)]
    connection.close()
    assert [image.shape for image in images if image is not None] == [(240, 320, 3)] * 9 + [(319, 241, 3)] * 9
    assert all(image.min() > 250 for image in images if image is not None)


def test_a_child_that_dies_or_hangs_is_replaced_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "PATIENCE", 1.0)
    before = resources()
    with Reading(SMPTE) as reading:
        reading.wait()
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        reading.wait_for("reconnected")
        reading.wait()
        (another,) = children()
        assert another != child
        os.kill(another, signal.SIGSTOP)
        reading.wait_for("stalled")
        reading.wait()
        assert len(children()) == 1
        assert reading.end() < WAIT
        assert max(reading.waits) < WAIT
    assert children() == []
    assert all(now <= then for now, then in zip(settled(before), before, strict=True))


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (csi_pipeline(0, CaptureOptions()), 'no element "nvarguscamerasrc"; it is for a Jetson'),
        ("nosuchsource ! decodebin", 'no element "nosuchsource"; apt install gstreamer1.0-tools'),
        ("filesrc location=/missing ! decodebin", "Resource not found"),
        ("videotestsrc 'pattern=ball", "expected a GStreamer pipeline, found one with no closing quotation"),
        ("audiotestsrc", "the pipeline ended"),
    ],
)
def test_a_pipeline_that_can_not_run_says_why(pipeline: str, message: str) -> None:
    before = resources()
    assert message in refused(pipeline)
    assert all(now <= then for now, then in zip(settled(before), before, strict=True))


def test_without_gstreamer_the_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "found none: apt install gstreamer1.0-tools" in refused("videotestsrc")


def test_a_sensor_is_asked_for_its_size_and_rate() -> None:
    assert csi_pipeline(2, CaptureOptions(width=1280, height=720, fps=30)) == (
        "nvarguscamerasrc sensor-id=2 ! "
        "'video/x-raw(memory:NVMM),width=1280,height=720,framerate=30000/1000' ! nvvidconv ! video/x-raw,format=I420"
    )


def test_the_child_dies_with_its_parent() -> None:
    code = f"""
import os, signal, threading
from hybrid_edge.runtime.sources import CaptureOptions, gstreamer
from hybrid_edge.runtime.sources.gstreamer import open_child
connection = open_child({SMPTE[6:]!r}, CaptureOptions(), threading.Event())
print(connection._child._process.pid, flush=True)
os.kill(connection._child._process.pid, signal.SIGSTOP)  # it will not notice by itself that nobody reads
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    child = Path(f"/proc/{int(ended.stdout)}/stat")
    deadline = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(rtsp_missing() is not None, reason=str(rtsp_missing()))
def test_rtsp_is_read_without_ffmpeg_too() -> None:
    decoder = subprocess.run(["gst-inspect-1.0", "--exists", "openh264dec"], check=False).returncode
    ffmpeg = subprocess.run(["gst-inspect-1.0", "--exists", "avdec_h264"], check=False).returncode
    if decoder and ffmpeg:
        pytest.skip("needs a decoder of H.264 for GStreamer")
    with RtspStream() as stream:
        connection = open_child(rtsp_pipeline(stream.url), CaptureOptions(), threading.Event())
        try:
            images = [connection.read() for _ in range(30)]
        finally:
            connection.close()
    assert images[-1] is not None
    assert images[-1].shape == (240, 320, 3)
    assert age_ms(images[-1]) < 2000
