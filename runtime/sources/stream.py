"""Read RTSP once the server has been asked whether it is there: through a Jetson's decoder, or OpenCV's FFmpeg.

What FFmpeg does was measured (OpenCV 5). A read that meets FFmpeg's time limit drains the decoder, gives an old frame
or none, and never another one: the connection is over. That limit is therefore longer than ours. OpenCV opens one
capture at a time, whatever the thread, so opening must not include the wait for a key frame, which takes seconds. The
resolution of a session is that of its first frame: OpenCV scales what comes after a change.
"""

from __future__ import annotations

import functools
import os
import queue
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from ..errors import ImageError, SourceError
from ..frame import Pixels
from ..opencv import MAX_PIXELS, cv2
from ..process import usable_cpus
from .blocking import BLOCKING_CALLS, OPENING_TURN, READ_WAIT, open_capture
from .child import ChildConnection, rtsp_pipeline
from .names import CaptureOptions, display_name, split_url
from .network import connect

ANSWER_TIMEOUT = 2.0  # seconds to the server's first answer, below what connecting again may take
OPEN_TIMEOUT = 5.0  # seconds to open where a server answers, perhaps slow and far away; other streams wait meanwhile
FIRST_FRAME_TIMEOUT = 8.0  # seconds, as a key frame may be long in coming
RTSP_PATIENCE = 2.0  # seconds without a frame after which the stream has stalled
READ_TIMEOUT = FIRST_FRAME_TIMEOUT + 1.0  # seconds after which FFmpeg gives up a read
CLOSE_TIMEOUT = 0.3  # seconds that closing waits for the read under way: enough where frames flow
HARDWARE = ("nvv4l2decoder", "nvvidconv")  # JetPack's elements: the decoder, and what brings its frames to the CPU
INSPECT_TIMEOUT = 30.0  # seconds: GStreamer looks through all its plugins when some are new
POLL_INTERVAL = 0.1  # seconds between two looks at ``stop``
MAX_FAILED_READS = 8  # reads in a row that fail at once, after which the stream has ended
INSTANT = 0.005  # seconds within which a read fails at once; after a stream's end it took less than 0.0001
OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # what OpenCV hands to FFmpeg
# TCP, as UDP loses packets for good; no sound; and no reading of a second of frames only to guess their rate
OPTIONS = "rtsp_transport;tcp|allowed_media_types;video|fpsprobesize;0"
# no key frame is awaited: OpenCV opens one capture at a time, and the others would wait for it too
FAST_OPTIONS = f"{OPTIONS}|probesize;32"


class RtspConnection:
    """This connection reads one session on a thread of its own, so that nobody who waits for a frame waits for C.

    One frame is handed over at a time; while nobody takes it, the following ones wait in the network. The session is to
    be given up after ``patience`` seconds without a frame, more before the first one.
    """

    def __init__(self, capture: cv2.VideoCapture, stop: threading.Event, patience: float) -> None:
        """Start to read an open capture, which is released when the reading ends."""
        self.patience = max(FIRST_FRAME_TIMEOUT, patience)
        self._patience = patience
        self._capture = capture
        self._stop = stop
        self._closed = threading.Event()
        self._taken = threading.Semaphore(0)  # one frame waits at most
        self._frames = queue.Queue[Pixels | Exception]()  # a SimpleQueue may wait for ever where a signal comes
        self._thread = threading.Thread(target=self._run, name="reading a stream", daemon=True)
        self._thread.start()

    def read(self) -> Pixels | None:
        """Return the next frame, as ``Connection`` says; None if none came within ``READ_WAIT``."""
        deadline = time.monotonic() + READ_WAIT
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty):
                frame = self._frames.get(timeout=min(POLL_INTERVAL, left))
                self._taken.release()
                if isinstance(frame, Exception):
                    raise frame
                self.patience = self._patience
                return frame
        return None

    def close(self) -> None:
        """Close the session; one that is silent ends by itself, in ``READ_TIMEOUT`` seconds at most."""
        self._closed.set()
        self._taken.release()
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        try:
            for frame in self._decode():
                self._frames.put(frame)
                self._taken.acquire()
                if self._closed.is_set():
                    return
        finally:
            with BLOCKING_CALLS.noted("release a stream"):
                self._capture.release()

    def _decode(self) -> Iterator[Pixels | Exception]:
        """Yield frames, an error for damaged ones, and at the end of the stream a last error."""
        bad = in_vain = 0  # reads without a frame: damage, or the stream's end, after which every read fails at once
        while in_vain < MAX_FAILED_READS and not self._closed.is_set():
            start = time.monotonic()
            try:
                with BLOCKING_CALLS.noted("read a stream"):
                    there, image = self._capture.read()
            except (cv2.error, MemoryError) as error:
                yield ImageError(f"the video decoder failed: {error.err}") if isinstance(error, cv2.error) else error
                continue
            waited = time.monotonic() - start > INSTANT
            if bad and (there or waited):
                yield ImageError(f"{bad} damaged frame{'s' * (bad > 1)}")
                bad = 0
            if there:
                in_vain = 0
                yield np.asarray(image, dtype=np.uint8)
            else:
                bad, in_vain = bad + 1, 0 if waited else in_vain + 1
        yield SourceError("the server ended the stream")


class HardwareConnection(ChildConnection):
    """This connection has H.264 or H.265 decoded by a Jetson's hardware, from a key frame on that is asked for."""

    def __init__(self, url: str, options: CaptureOptions, stop: threading.Event) -> None:
        """Start a child process for a stream whose server answers."""
        _ask(url, stop)
        decoder, converter = HARDWARE
        elements = f"parsebin ! {decoder} ! {converter} ! video/x-raw,format=I420"
        super().__init__(rtsp_pipeline(url, elements), options, stop)

    def read(self) -> Pixels | None:
        """Return the next frame, as ``Connection`` says; an error before the first one says what is tried next."""
        try:
            return super().read()
        except SourceError as error:
            tried = "" if self.started else f"; {HARDWARE[0]} gave no frame, the next try is software's"
            raise SourceError(f"{error}{tried}") from None


@functools.cache
def hardware_decodes() -> bool:
    """Return whether GStreamer has the elements of a Jetson's decoder; the first time it may look for seconds."""
    inspect = shutil.which("gst-inspect-1.0")
    with suppress(OSError, subprocess.TimeoutExpired):
        return inspect is not None and all(
            subprocess.run(  # noqa: S603
                [inspect, "--exists", name], capture_output=True, timeout=INSPECT_TIMEOUT, check=False
            ).returncode
            == 0
            for name in HARDWARE
        )
    return False


def rtsp_decoder(url: str) -> str:
    """Return what decodes a stream, for people."""
    if hardware_decodes() and not _encrypted(url):
        return f"{HARDWARE[0]} (hardware)"
    return f"{'FFmpeg' if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG) else 'GStreamer'} (software)"


class RtspOpener:
    """This opener connects to a stream, decoded in hardware where that works, else in software.

    A try of the hardware without a frame, as of a codec that it lacks, is followed by one of the software.
    """

    def __init__(self, url: str, options: CaptureOptions) -> None:
        self._url = url
        self._options = options
        self._tried: HardwareConnection | None = None

    def __call__(self, stop: threading.Event) -> RtspConnection | ChildConnection:
        """Connect anew; setting ``stop`` ends every wait."""
        tried, self._tried = self._tried, None
        if hardware_decodes() and not _encrypted(self._url) and (tried is None or tried.started):
            self._tried = HardwareConnection(self._url, self._options, stop)
            return self._tried
        if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            newest, patience = not self._options.every_frame, self._options.patience(RTSP_PATIENCE)
            return open_rtsp(self._url, stop, newest=newest, patience=patience)
        return ChildConnection(rtsp_pipeline(self._url), self._options, stop)


def _encrypted(url: str) -> bool:
    return url.lower().startswith("rtsps:")  # GStreamer's TLS knows nothing of SSL_CERT_FILE


def open_rtsp(url: str, stop: threading.Event, *, newest: bool, patience: float) -> RtspConnection:
    """Open a stream, H.264 or whatever else FFmpeg decodes, over TCP.

    ``newest`` decodes without delay, on one thread; otherwise several threads decode, each a frame later. Setting
    ``stop`` ends every wait; the connection is to be given up after ``patience`` seconds without a frame.
    """
    numeric, tls = _ask(url, stop), _encrypted(url)
    authorities = ssl.get_default_verify_paths().cafile if tls else None
    trust = f"|tls_verify;1|ca_file;{authorities}" if authorities else ""  # of FFmpeg 8; older ones ask for none
    capture = _open(numeric, stop, FAST_OPTIONS + trust, OPEN_TIMEOUT, newest=newest)
    if capture.isOpened() and not capture.get(cv2.CAP_PROP_FRAME_WIDTH):  # this server tells it only with the frames
        capture.release()
        capture = _open(numeric, stop, OPTIONS + trust, FIRST_FRAME_TIMEOUT, newest=newest)
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            "the server answers, and gives no video: wrong path, name or password, or a codec that FFmpeg lacks"
            + ", as it may TLS" * tls
        )
    width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        capture.release()
        raise SourceError(
            f"expected frames of at most {MAX_PIXELS} pixels, as fit this device's memory, found {width}x{height}"
        )
    return RtspConnection(capture, stop, patience)


def _open(url: str, stop: threading.Event, options: str, seconds: float, *, newest: bool) -> cv2.VideoCapture:
    settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(seconds * 1000)]
    settings += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_TIMEOUT * 1000)]
    unset = newest or "OPENCV_FFMPEG_THREADS" not in os.environ
    if unset and hasattr(cv2, "CAP_PROP_N_THREADS"):  # from OpenCV 4.7 on; each thread holds a frame back
        settings += [cv2.CAP_PROP_N_THREADS, 1 if newest else len(usable_cpus())]

    def open_with_options() -> cv2.VideoCapture:
        if OPTIONS_VARIABLE in os.environ:  # the user's own stay as they are
            return cv2.VideoCapture(url, cv2.CAP_FFMPEG, settings)
        os.environ[OPTIONS_VARIABLE] = options
        try:
            return cv2.VideoCapture(url, cv2.CAP_FFMPEG, settings)
        finally:
            del os.environ[OPTIONS_VARIABLE]

    return open_capture(open_with_options, stop, display_name(url), turn=OPENING_TURN)


def _ask(url: str, stop: threading.Event) -> str:
    """Return the URL with the server's numeric address once it has answered there.

    FFmpeg's own wait can't be ended and would keep other streams waiting, its look-up of a name could take half a
    minute, and its errors can't be told apart. Of rtsps the certificate is verified here.
    """
    parts, host, port = split_url(url)
    user, at, bare = parts.netloc.rpartition("@")
    target = parts._replace(netloc=bare).geturl()
    deadline = time.monotonic() + ANSWER_TIMEOUT
    with connect(host, port, stop, deadline, tls=_encrypted(url)) as stream:
        stream.send(f"OPTIONS {target} RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: hybrid-edge\r\n\r\n".encode())
        try:
            answer = stream.read(40) or b""
        except TimeoutError:
            raise SourceError(f"no answer from the server within {ANSWER_TIMEOUT} s") from None
    if not answer.startswith(b"RTSP/"):
        raise SourceError(f"expected an RTSP server, found one that answers {answer!r}")
    numeric = f"[{stream.address}]" if ":" in stream.address else stream.address
    return parts._replace(netloc=f"{user}{at}{numeric}:{port}").geturl()
