"""Read frames from GStreamer in a child process, as pip's OpenCV has no GStreamer inside.

Frames come through one pipe as PNM, where each states its own size, so that a change of size is never missed; what the
child says comes through another, also on stdout, where NVIDIA's elements write.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from ..errors import SourceError
from ..frame import Pixels
from ..opencv import MAX_PIXELS, cv2
from .blocking import READ_WAIT
from .names import CaptureOptions, display_name

FIRST_FRAME_TIMEOUT = 8.0  # seconds: a sensor has to start, or a slow camera to send a key frame
PIPELINE_PATIENCE = 2.0  # seconds without a frame after which the pipeline has stalled
POLL_INTERVAL = 0.1  # seconds between two looks at ``stop``
KILL_TIMEOUT = 1.0  # seconds from SIGKILL to the child's end; only a call that hangs inside a driver takes longer
EXIT_TIMEOUT = 0.5  # seconds from the last frame to the child's own end and its last words
PIPE_SIZE = 2**20  # bytes, the most that Linux allows any user: a frame then takes fewer system calls
MAX_MESSAGES = 2000  # bytes that are kept of the child's messages, the last ones
ERROR_LINE = re.compile(r"^.*(?:ERROR|rror:|erroneous).*$", re.MULTILINE)
JETSON_ELEMENT = re.compile(r"no element \"nv")
JETPACK_HINT = "it is for a Jetson and comes with JetPack: apt install nvidia-l4t-gstreamer"
PACKAGES_HINT = "apt install gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
PNM_HEADER = re.compile(rb"P6\s(?:#[^\n]*\n)*(\d{1,6})\s(\d{1,6})\s255\s")
MIN_PNM_HEADER = len(b"P6 1 1 255 ")
MAX_PNM_HEADER = 256


class ChildConnection:
    """This connection reads a pipeline that runs in a process of its own.

    The process stays in our process group, and dies with the thread that started it, so that no camera stays taken. It
    is to be given up after ``patience`` seconds without a frame, more before the first one.
    """

    def __init__(self, pipeline: str, options: CaptureOptions, stop: threading.Event) -> None:
        """Start the child process with a pipeline in ``gst-launch-1.0``'s language, whose elements end in raw video.

        ``options`` have the size and rate to convert to, and whether every frame is wanted; setting ``stop`` ends every
        wait.
        """
        self.started = False  # whether a frame has come
        self._patience = options.patience(PIPELINE_PATIENCE)
        self.patience = max(FIRST_FRAME_TIMEOUT, self._patience)
        self._stop = stop
        self._deadline = 0.0
        self._messages = b""
        self._frames = pnm_frames(self._fill)
        self._process, self._frames_file = _launch(f"{pipeline} ! {_tail(options)}")
        self._frames_pipe = self._frames_file.fileno()
        self._messages_pipe = -1 if self._process.stdout is None else self._process.stdout.fileno()
        with contextlib.suppress(OSError):  # a smaller pipe works too, only slower
            fcntl.fcntl(self._frames_pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._poll = select.poll()
        self._poll.register(self._frames_pipe, select.POLLIN)
        self._poll.register(self._messages_pipe, select.POLLIN)

    def read(self) -> Pixels | None:
        """Return the next frame, as ``Connection`` says; None if none was complete within ``READ_WAIT``.

        The error at the pipeline's end quotes the first line that it said about an error.
        """
        self._deadline = time.monotonic() + READ_WAIT
        image = next(self._frames)
        if isinstance(image, MemoryError):
            raise image
        if image is not None:
            self.started, self.patience = True, self._patience
        return image

    def close(self) -> None:
        """Kill the process and reap it; one held by a driver, so that not even SIGKILL ends it, is left to itself."""
        self._process.kill()
        for end in (self._frames_file, self._process.stdout):
            if end is not None:
                end.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # Popen then tries to reap it at each new child
            self._process.wait(KILL_TIMEOUT)

    def _fill(self, buffer: memoryview) -> int:
        """Put bytes into a buffer as soon as there are some; return how many, 0 at the deadline or on a stop."""
        while not self._stop.is_set() and (left := self._deadline - time.monotonic()) > 0:
            ready = [end for end, _ in self._poll.poll(1000 * min(POLL_INTERVAL, left))]
            if self._messages_pipe in ready:  # its messages are taken, so that the child never waits for us
                self._read_messages()
            if self._frames_pipe in ready:
                count = os.readv(self._frames_pipe, [buffer])
                if not count:
                    raise SourceError(f"the pipeline ended: {self._reason()}")
                return count
        return 0

    def _reason(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT)
        while select.select([self._messages_pipe], [], [], 0)[0] and self._read_messages():
            pass
        line = ERROR_LINE.search(self._messages.decode("utf-8", "replace"))
        reason = display_name(line[0].strip()) if line else "there were no more frames"
        if "no element" not in reason:
            return reason
        return f"{reason}; {JETPACK_HINT if JETSON_ELEMENT.search(reason) else PACKAGES_HINT}"

    def _read_messages(self) -> bool:
        piece = os.read(self._messages_pipe, MAX_MESSAGES)
        self._messages = (self._messages + piece)[-MAX_MESSAGES:]
        if not piece:
            with contextlib.suppress(KeyError):  # the messages had ended before
                self._poll.unregister(self._messages_pipe)
        return bool(piece)


def pnm_frames(fill: Callable[[memoryview], int]) -> Iterator[Pixels | MemoryError | None]:
    """Yield frames, (H, W, 3) uint8 BGR, that come as PNM; None each time that no bytes came.

    A MemoryError comes in place of each try to make room for a frame that fails: raised here, it would be the end.
    ``fill`` puts the bytes that have come into a buffer and returns their number.
    """
    while True:
        header = bytearray()
        while (match := PNM_HEADER.fullmatch(header)) is None:
            if len(header) > MAX_PNM_HEADER:
                raise SourceError(f"expected frames as PNM from the pipeline, found {bytes(header[:40])!r}")
            piece = bytearray(max(MIN_PNM_HEADER - len(header), 1))  # its end byte by byte, as pixels follow
            count = fill(memoryview(piece))
            header += piece[:count]
            if not count:
                yield None
        width, height = int(match[1]), int(match[2])
        if not 0 < width * height <= MAX_PIXELS:
            raise SourceError(
                f"expected frames of 1 to {MAX_PIXELS} pixels, as fit this device's memory, found {width}x{height}"
            )
        image: Pixels | None = None
        while image is None:
            try:
                image = np.empty((height, width, 3), np.uint8)
            except MemoryError as error:  # noqa: PERF203 - tried again
                yield error
        missing = memoryview(image.reshape(-1).data)
        while missing:
            count = fill(missing)
            missing = missing[count:]
            if not count:
                yield None
        yield np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR, dst=image), dtype=np.uint8)


def csi_pipeline(sensor: int, options: CaptureOptions) -> str:
    """Return the pipeline that reads a Jetson's CSI sensor through its image processor."""
    caps = "video/x-raw(memory:NVMM)"
    if options.size:
        caps += ",width={},height={}".format(*options.size)
    if options.fps:
        caps += f",framerate={_rate(options.fps)}"
    return f"nvarguscamerasrc sensor-id={sensor} ! {shlex.quote(caps)} ! nvvidconv ! video/x-raw,format=I420"


def rtsp_pipeline(url: str, decoder: str = "decodebin") -> str:
    """Return the pipeline that reads RTSP; it holds no frame back to smooth the stream."""
    parts = urlsplit(url)
    credentials = {"user-id": parts.username, "user-pw": parts.password}  # in the URL, not every character would do
    quoted = (
        shlex.quote('{}="{}"'.format(name, re.sub(r'(["\\])', r"\\\1", unquote(value))))
        for name, value in credentials.items()
        if value
    )
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    source = f"rtspsrc location={shlex.quote(bare)} {' '.join(quoted)} protocols=tcp latency=0"
    return f"{source} ! application/x-rtp,media=video ! {decoder}"  # a sound's pad may come first


def _tail(options: CaptureOptions) -> str:
    """Return the elements that turn raw video into PNM frames, scaled and thinned only if the options ask for it."""
    rate = f"videorate drop-only=true ! video/x-raw,framerate={_rate(options.fps)} ! " if options.fps else ""
    limits = "max-size-buffers=1 max-size-bytes=0 max-size-time=0 leaky=downstream"
    newest = "" if options.every_frame else f"queue {limits} ! "
    scale = "videoscale ! video/x-raw,width={},height={} ! ".format(*options.size) if options.size else ""
    return f"{rate}{newest}{scale}videoconvert name=hybrid-edge ! video/x-raw,format=RGB ! pnmenc"


def _rate(fps: float) -> str:
    return f"{round(fps * 1000)}/1000"


def _launch(pipeline: str) -> tuple[subprocess.Popen[bytes], io.FileIO]:
    """Start the child, which reads the pipeline from stdin; return its process and the pipe with the frames."""
    if shutil.which("gst-launch-1.0") is None:
        raise SourceError(f"expected GStreamer, which reads this source, found no gst-launch-1.0: {PACKAGES_HINT}")
    reading, writing = os.pipe()
    frames = io.FileIO(reading)
    try:
        words = shlex.split(f"{pipeline} ! fdsink fd={writing} sync=false")
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("gst_launch.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            pass_fds=[writing],
        )
    except ValueError as error:
        frames.close()
        raise SourceError(f"expected a GStreamer pipeline, found one with {str(error).lower()}") from None
    except OSError as error:
        frames.close()
        raise SourceError(f"GStreamer's process can't be started: {error.strerror}") from None
    finally:
        os.close(writing)
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # it has ended already; its messages say why
            process.stdin.write("\0".join(words).encode(errors="surrogateescape"))
        process.stdin.close()
    return process, frames
