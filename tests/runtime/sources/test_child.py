"""Pipelines in a child process, with videotestsrc where a Jetson has its sensor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.live.run import soon
from support.streams.reading import Reading, resources, settled
from support.streams.servers import RtspStream, age_ms, rtsp_missing

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.sources import child
from hybrid_edge.runtime.sources.child import ChildConnection, csi_pipeline, pnm_frames, rtsp_pipeline
from hybrid_edge.runtime.sources.names import CaptureOptions

needs_gstreamer = pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="needs gstreamer1.0-tools")

SMPTE = "gst://videotestsrc is-live=true pattern=smpte ! video/x-raw,width=320,height=240,framerate=50/1"
WAIT = 1.5  # seconds that a read may take, and a stop


def children() -> list[int]:
    names = ["ps", "--ppid", str(os.getpid()), "-o", "pid=,args=", "ww"]
    found = subprocess.run(names, capture_output=True, text=True, check=False).stdout.splitlines()
    return [int(line.split()[0]) for line in found if "gst_launch.py" in line]


def refused(pipeline: str) -> str:
    with pytest.raises(SourceError) as caught:
        images(pipeline, 1)
    return str(caught.value)


def images(pipeline: str, count: int) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    deadline = time.monotonic() + 60
    with closing(ChildConnection(pipeline, CaptureOptions(every_frame=True), threading.Event())) as connection:
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} frames came"
            image = connection.read()
            found += [] if image is None else [image]
    return found


@needs_gstreamer
def test_frames_come_through_the_pipe_in_their_colours() -> None:
    before = resources()
    with Reading(SMPTE) as reading:
        reading.wait(20)
        image = reading.last.image
        assert reading.end() < WAIT
    assert image.shape == (240, 320, 3)
    gray, yellow, cyan = image[50, 20], image[50, 70], image[50, 110]  # of a SMPTE test picture, BGR
    assert int(gray.max()) - int(gray.min()) < 4
    assert yellow[0] < 20
    assert yellow[1] > 150
    assert cyan[2] < 20
    assert cyan[0] > 150
    assert reading.told == []
    assert all(now <= then for now, then in zip(settled(before), before, strict=True))


@needs_gstreamer
def test_what_elements_write_on_stdout_gets_into_no_frame() -> None:
    with Reading(f"{SMPTE} ! identity dump=true") as reading:  # as NVIDIA's do
        reading.wait(5)
    assert reading.told == []
    assert reading.last.image.shape == (240, 320, 3)


@needs_gstreamer
def test_a_size_and_a_rate_are_had_where_they_are_asked_for() -> None:
    with Reading(SMPTE, CaptureOptions(width=161, height=121, fps=10)) as reading:
        reading.wait(12)
    assert reading.last.image.shape == (121, 161, 3)
    seconds = reading.moments[-1] - reading.moments[1]
    assert (len(reading.moments) - 2) / seconds < 15


@needs_gstreamer
def test_every_frame_is_given_where_none_may_be_left_out() -> None:
    pipeline = "videotestsrc num-buffers=60 ! video/x-raw,width=640,height=480"
    assert len(images(pipeline, 60)) == 60
    with pytest.raises(SourceError, match="there were no more frames"):
        images(pipeline, 61)


@needs_gstreamer
def test_another_resolution_never_mixes_pixels() -> None:
    two = "concat name=c videotestsrc num-buffers=9 pattern=white ! video/x-raw,width=320,height=240 ! c. "
    two += "videotestsrc num-buffers=9 pattern=white ! video/x-raw,width=241,height=319 ! c. c."
    found = images(two, 18)
    assert [image.shape for image in found] == [(240, 320, 3)] * 9 + [(319, 241, 3)] * 9
    assert all(image.min() > 250 for image in found)


@needs_gstreamer
def test_a_child_that_dies_or_hangs_is_replaced_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PIPELINE_PATIENCE", 1.0)
    before = resources()
    with Reading(SMPTE) as reading:
        reading.wait()
        (first,) = children()
        os.kill(first, signal.SIGKILL)
        reading.wait_for("reconnected")
        reading.wait()
        (another,) = children()
        assert another != first
        os.kill(another, signal.SIGSTOP)
        reading.wait_for("stalled")
        reading.wait()
        assert len(children()) == 1
        assert reading.end() < WAIT
        assert max(reading.waits) < WAIT
    assert children() == []
    assert all(now <= then for now, then in zip(settled(before), before, strict=True))


@needs_gstreamer
@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (csi_pipeline(0, CaptureOptions()), 'no element "nvarguscamerasrc"; it is for a Jetson'),
        ("nosuchsource ! decodebin", 'no element "nosuchsource"; apt install gstreamer1.0-tools'),
        (
            "filesrc location=/missing ! decodebin",
            "Resource not found. /GstPipeline:pipeline0/GstFileSrc:filesrc0: No such file",
        ),
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
    assert "found no gst-launch-1.0: apt install gstreamer1.0-tools" in refused("videotestsrc")


def test_a_sensor_is_asked_for_its_size_and_rate() -> None:
    assert csi_pipeline(2, CaptureOptions(width=1280, height=720, fps=30)) == (
        "nvarguscamerasrc sensor-id=2 ! "
        "'video/x-raw(memory:NVMM),width=1280,height=720,framerate=30000/1000' ! nvvidconv ! video/x-raw,format=I420"
    )


@needs_gstreamer
def test_the_child_dies_with_its_parent() -> None:
    code = f"""
import os, signal, threading
from hybrid_edge.runtime.sources.names import CaptureOptions
from hybrid_edge.runtime.sources.child import ChildConnection
connection = ChildConnection({SMPTE[6:]!r}, CaptureOptions(), threading.Event())
while connection.read() is None:
    pass
print(connection._process.pid, flush=True)
os.kill(connection._process.pid, signal.SIGSTOP)  # it will not notice by itself that nobody reads
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    process = Path(f"/proc/{int(ended.stdout)}/stat")
    assert soon(lambda: not process.exists() or process.read_text().split()[2] == "Z")


@needs_gstreamer
@pytest.mark.skipif(rtsp_missing() is not None, reason=str(rtsp_missing()))
def test_rtsp_is_read_without_ffmpeg_too() -> None:
    decoder = subprocess.run(["gst-inspect-1.0", "--exists", "openh264dec"], check=False).returncode
    ffmpeg = subprocess.run(["gst-inspect-1.0", "--exists", "avdec_h264"], check=False).returncode
    if decoder and ffmpeg:
        pytest.skip("needs a decoder of H.264 for GStreamer")
    with RtspStream() as stream:
        last = images(rtsp_pipeline(stream.url), 30)[-1]
    assert last.shape == (240, 320, 3)
    assert age_ms(last) < 2000


@needs_gstreamer
def test_a_frame_that_the_memory_does_not_suffice_for_is_no_loss_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    empty, shortages = np.empty, [MemoryError()]

    def allocate(*args: Any) -> np.ndarray:
        if shortages:
            raise shortages.pop()
        return empty(*args)

    monkeypatch.setattr(np, "empty", allocate)
    with Reading(SMPTE) as reading:
        reading.wait(3)
    assert (reading.events.count("memory-short"), reading.events.count("lost")) == (1, 0)


def pnm(width: int, height: int, seed: int, comment: bytes = b"") -> tuple[bytes, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return b"P6\n" + comment + b"%d %d\n255\n" % (width, height) + image[..., ::-1].tobytes(), image


def giving(data: bytes, step: int = 10**6) -> Callable[[memoryview], int]:
    """Gives ``step`` bytes at a time, and nothing every third time."""
    left = bytearray(data)
    turns = iter(range(10**9))

    def fill(buffer: memoryview) -> int:
        piece = b"" if next(turns) % 3 == 2 else bytes(left[: min(step, len(buffer))])
        buffer[: len(piece)] = piece
        del left[: len(piece)]
        return len(piece)

    return fill


@pytest.mark.parametrize("step", [1, 5, 100, 10**6])
def test_frames_of_any_size_come_out_however_they_come_in_and_are_not_written_over(step: int) -> None:
    frames = [pnm(8, 6, 1), pnm(6, 8, 2), pnm(1, 1, 3), pnm(31, 5, 4, b"# made by a test\n"), pnm(100, 33, 5)]
    source = pnm_frames(giving(b"".join(data for data, _ in frames), step))
    found = [next(image for image in source if image is not None) for _ in frames]
    for image, (_, expected) in zip(found, frames, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert next(source) is None


@pytest.mark.parametrize("data", [b"RIFF" * 100, b"P6\n" + b"x" * 400, b"P6\n8 6\n65535\n" + bytes(300)])
def test_what_are_no_such_frames_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match="expected frames as PNM from the pipeline, found b'"):
        list(pnm_frames(giving(data)))


@pytest.mark.parametrize("size", [b"0 5", b"99999 99999"])
def test_a_size_that_can_not_be_is_refused_before_anything_is_allocated(size: bytes) -> None:
    with pytest.raises(SourceError, match="expected frames of 1 to"):
        list(pnm_frames(giving(b"P6\n" + size + b"\n255\n")))
