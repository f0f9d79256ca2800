"""Turn a recording's pictures into samples of an MP4: JPEG everywhere, H.264 where GStreamer has a free encoder.

An H.264 encoder runs in ``gst-launch-1.0``, a process of its own, as pip's OpenCV has none: raw pictures go in through
one pipe, and each comes back through another as one access unit, in ``multipartmux``'s frame of headers, which tell its
length. No encoder that keeps a picture back for later ones is taken, so that a file is whole at every moment.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import shlex
import shutil
import struct
import subprocess
import time
from typing import NamedTuple

from ..canvas.pictures import blank
from ..frame import Pixels
from ..opencv import cv2

JPEG_QUALITY = 80  # JPEG's, from 0 to 100
JPEG_OBJECT_TYPE = 0x6C  # object type of ISO/IEC 10918-1 in 14496-1
BITS_PER_PIXEL = 0.1  # of a picture in H.264, at 30 a second: a usual rate for cameras
KEY_INTERVAL = 30  # pictures from one that depends on no other to the next: where a player can jump to
# name -> its elements: NVIDIA's on a Jetson, VA-API's of Intel and AMD, Cisco's OpenH264 on any CPU. No pictures are
# reordered (B-frames), and each key frame brings its parameter sets
H264_ENCODERS = {
    "nvv4l2h264enc": "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! nvv4l2h264enc insert-sps-pps=true "
    "idrinterval={interval} iframeinterval={interval} bitrate={bits}",
    "vah264enc": "videoconvert ! vah264enc b-frames=0 key-int-max={interval} bitrate={kilobits}",
    "openh264enc": "videoconvert ! video/x-raw,format=I420 ! openh264enc complexity=low gop-size={interval} "
    "rate-control=bitrate bitrate={bits}",
}
ENCODE_TIMEOUT = 3.0  # seconds for one picture, the start of the process with it
KILL_TIMEOUT = 0.5  # seconds from SIGKILL to the process's end; only a call that hangs inside a driver takes longer
PROBE_SIZE = (320, 240)  # pixels; hardware refuses much smaller ones
PART = re.compile(rb"Content-Length: (\d{1,9})\r\n(?:[^\r\n]+\r\n)*\r\n")
START_CODE = re.compile(b"\0\0\x01")
SEQUENCE_PARAMETERS, PICTURE_PARAMETERS, KEY_SLICE, DELIMITER = 7, 8, 5, 9  # nal_unit_type, ITU-T H.264 table 7-1


class EncoderError(Exception):
    """An encoder gave up, or can't be started; what it encoded before stays whole."""


class Sample(NamedTuple):
    """One encoded picture as it stands in an MP4; ``key`` says that it depends on no other."""

    data: bytes
    key: bool


class Encoder:
    """This is the base class of what encodes the pictures of one file, all of one size in pixels."""

    name: str

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    def encode(self, picture: Pixels) -> Sample:
        """Return an (H, W, 3) uint8 BGR picture as a sample, or raise EncoderError."""
        raise NotImplementedError

    def sample_entry(self) -> tuple[bytes, bytes, bytes]:
        """Return the code of the MP4's sample entry, and the box that configures its decoder, as name and content.

        It is asked for after the first picture.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End what encodes."""


class JpegEncoder(Encoder):
    """This encoder makes Motion JPEG, which OpenCV, FFmpeg and GStreamer play and browsers don't."""

    name = "Motion JPEG"

    def encode(self, picture: Pixels) -> Sample:
        """Return the picture as a JPEG."""
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return Sample(data.tobytes(), key=True)

    def sample_entry(self) -> tuple[bytes, bytes, bytes]:
        """Return ``mp4v`` with a decoder configuration (ISO/IEC 14496-1, 7.2.6) that says JPEG."""
        decoder = struct.pack(">2B 3x 2I", JPEG_OBJECT_TYPE, 4 << 2 | 1, 0, 0)
        stream = struct.pack(">HB", 1, 0) + _descriptor(4, decoder) + _descriptor(6, b"\x02")
        return b"mp4v", b"esds", bytes(4) + _descriptor(3, stream)


class H264Encoder(Encoder):
    """This encoder hands pictures to one of GStreamer's encoders; it lives in a session of its own.

    Ctrl-C therefore does not reach it, and the last pictures are encoded. It ends when its input does.
    """

    def __init__(self, element: str, width: int, height: int) -> None:
        """Start the process; EncoderError says that it can't be started."""
        super().__init__(width, height)
        self.name = f"H.264 by {element}"
        self._parameters: dict[int, bytes] = {}
        self._received = b""
        bits = max(round(width * height * 30 * BITS_PER_PIXEL), 200_000)
        encoder = H264_ENCODERS[element].format(interval=KEY_INTERVAL, bits=bits, kilobits=bits // 1000)
        raw = f"rawvideoparse format=bgr width={width} height={height} framerate=30/1"
        source = f"fdsrc fd=0 blocksize={width * height * 3} ! {raw}"
        self._process, self._samples = _launch(f"{source} ! {encoder} ! multipartmux")
        for end in (self._process.stdin, self._samples):
            if end is not None:
                os.set_blocking(end.fileno(), False)

    def encode(self, picture: Pixels) -> Sample:
        """Return the picture as an access unit whose parts stand behind their lengths (ISO/IEC 14496-15, 5.3)."""
        deadline = time.monotonic() + ENCODE_TIMEOUT
        missing = memoryview(picture.reshape(-1).data)
        while True:
            part = PART.search(self._received)
            if part is not None and len(self._received) >= part.end() + int(part[1]):
                unit = self._received[part.end() : part.end() + int(part[1])]
                self._received = self._received[part.end() + int(part[1]) :]
                return self._sample(unit)
            missing = missing[self._exchange(missing, deadline) :]

    def sample_entry(self) -> tuple[bytes, bytes, bytes]:
        """Return ``avc1`` with the stream's parameter sets (ISO/IEC 14496-15, 5.3.3.1)."""
        sequence, picture = self._parameters[SEQUENCE_PARAMETERS], self._parameters[PICTURE_PARAMETERS]
        head = b"\x01" + sequence[1:4] + b"\xff\xe1"  # profile and level; lengths of 4 bytes; one set
        sets = struct.pack(">H", len(sequence)) + sequence + b"\x01" + struct.pack(">H", len(picture)) + picture
        return b"avc1", b"avcC", head + sets

    def close(self) -> None:
        """End the process, which has given back all its pictures; one that hangs holds nobody up."""
        self._process.kill()
        for end in (self._process.stdin, self._samples):
            if end is not None:
                end.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_TIMEOUT)

    def _exchange(self, missing: memoryview, deadline: float) -> int:
        """Take what the process has written, give it what it takes of ``missing``, and return that number of bytes."""
        source, sink = self._samples, self._process.stdin
        assert sink is not None  # noqa: S101 - a pipe, as asked for
        left = max(deadline - time.monotonic(), 0)
        readable, writable, _ = select.select([source], [sink] if missing else [], [], left)
        if not readable and not writable:
            raise EncoderError(f"{self.name}: expected a picture within {ENCODE_TIMEOUT:.0f} s, found none")
        if readable:
            received = os.read(source.fileno(), 2**20)
            if not received:
                raise EncoderError(f"{self.name}: the encoder ended")
            self._received += received
        try:
            return os.write(sink.fileno(), missing) if writable else 0
        except BrokenPipeError:
            raise EncoderError(f"{self.name}: the encoder ended") from None

    def _sample(self, unit: bytes) -> Sample:
        starts = [match.end() for match in START_CODE.finditer(unit)]
        ends = [start - 3 for start in starts[1:]] + [len(unit)]
        parts = [unit[start:end].rstrip(b"\0") for start, end in zip(starts, ends, strict=True)]
        kinds = [part[0] & 31 for part in parts if part]
        self._parameters |= {
            kind: part
            for kind, part in zip(kinds, filter(None, parts), strict=True)
            if kind in (SEQUENCE_PARAMETERS, PICTURE_PARAMETERS)
        }
        if not {SEQUENCE_PARAMETERS, PICTURE_PARAMETERS} <= self._parameters.keys():
            raise EncoderError(f"{self.name}: expected parameter sets before the first picture, found none")
        kept = [part for part in parts if part and part[0] & 31 != DELIMITER]
        return Sample(b"".join(struct.pack(">I", len(part)) + part for part in kept), KEY_SLICE in kinds)


def find_h264_encoder() -> str | None:
    """Return the first of ``H264_ENCODERS`` that encodes a picture here, None where none does.

    An element can be installed where its hardware is missing, as NVIDIA's on an Orin Nano, so each is tried.
    """
    for element in H264_ENCODERS:
        with contextlib.suppress(EncoderError), contextlib.closing(H264Encoder(element, *PROBE_SIZE)) as encoder:
            if encoder.encode(blank(*PROBE_SIZE)).key:
                return element
    return None


def _launch(pipeline: str) -> tuple[subprocess.Popen[bytes], io.FileIO]:
    """Start a pipeline; return its process, which reads stdin, and the pipe with what comes out at its end.

    That is a pipe of its own, and what the process says is dropped: NVIDIA's elements write on stdout, and one that
    nobody read would hold it up. It dies with the thread that starts it, where ``setpriv`` is there.
    """
    program = shutil.which("gst-launch-1.0")
    if program is None:
        raise EncoderError("expected gst-launch-1.0, found none")
    setpriv = shutil.which("setpriv")  # of util-linux
    guard = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise EncoderError(f"no pipe to an encoder can be made: {error.strerror}") from None
    samples = io.FileIO(reading)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own pipeline, no shell
            [*guard, program, *shlex.split(f"{pipeline} ! fdsink fd={writing} sync=false")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=[writing],
            start_new_session=True,
        )
    except OSError as error:
        samples.close()
        raise EncoderError(f"gst-launch-1.0 can't be started: {error.strerror}") from None
    finally:
        os.close(writing)
    return process, samples


def _descriptor(tag: int, body: bytes) -> bytes:
    return bytes((tag, len(body))) + body
