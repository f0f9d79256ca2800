"""RTSP through OpenCV's FFmpeg, asked first whether anybody is there, opened and read where nobody has to wait for it.

What FFmpeg does was measured (OpenCV 5): a read that meets its time limit drains the decoder, gives an old frame or
none, and never another one: the connection is over. Its limit is therefore longer than ours. OpenCV opens one capture
at a time, whatever the thread: the wait for a key frame, seconds, is not to be part of it. The resolution of a session
is that of its first frame: OpenCV scales what comes after a change.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..opencv import cv2
from .aside import open_aside
from .ffmpeg_options import probing, set_stream_options
from .live import READ_WAIT
from .names import display_name, split_url
from .reader import Reader
from .wire import Wire

__all__ = ["PATIENCE", "RtspConnection", "open_rtsp"]

ANSWER = 2.5  # seconds to a first answer: below what coming back may take
OPEN = 5.0  # seconds for a server that does answer: slow cameras, far away; other streams can't be opened meanwhile
FIRST = 8.0  # seconds without a first frame: the wait for a key frame
PATIENCE = 2.0  # seconds without a frame
READ = FIRST + 1.0  # seconds after which FFmpeg gives a read up
TURN = threading.Lock()  # OpenCV has one like it; who waits for this one is not taken for a call that hangs


class RtspConnection:
    """One RTSP session.

    Attributes:
        patience: seconds without a frame after which it is to be given up; more before the first.
    """

    def __init__(self, capture: cv2.VideoCapture, stop: threading.Event, patience: float) -> None:
        self.patience = max(FIRST, patience)
        self._patience = patience
        self._reader = Reader(capture, stop)

    def read(self) -> npt.NDArray[np.uint8] | None:
        """The next frame, (H, W, 3) uint8 BGR; None where none came within ``READ_WAIT``, or on a stop.

        Raises:
            ImageError: the decoder failed.
            SourceError: the stream ended.
        """
        image = self._reader.next(READ_WAIT)
        if image is not None:
            self.patience = self._patience
        return image

    def close(self) -> None:
        """End the session; one that is silent ends by itself, in ``READ`` seconds at most."""
        self._reader.close()


def open_rtsp(url: str, stop: threading.Event, *, newest: bool, patience: float = PATIENCE) -> RtspConnection:
    """Open a stream, H.264 or whatever else FFmpeg decodes, over TCP.

    Args:
        url: ``rtsp://``.
        stop: ends the waiting early; a session that is just being opened then closes itself, in ``OPEN`` seconds.
        newest: decode without delay on one thread; otherwise on several, a frame later for each.
        patience: seconds without a frame after which the connection is to be given up.

    Raises:
        SourceError: nobody there, no answer in time, no such stream, a wrong password, or ``stop``.
    """
    address = _ask(url, stop)
    set_stream_options()
    numeric = _numeric(url, address)
    capture = _open(numeric, stop, OPEN, newest=newest)
    if capture.isOpened() and not capture.get(cv2.CAP_PROP_FRAME_WIDTH):  # the server says it with the frames alone
        capture.release()
        with probing():
            capture = _open(numeric, stop, FIRST, newest=newest)
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            "the server answers, and gives no video: wrong path, name or password, or a codec that FFmpeg lacks"
        )
    return RtspConnection(capture, stop, patience)


def _open(url: str, stop: threading.Event, seconds: float, *, newest: bool) -> cv2.VideoCapture:
    """A capture, open or not, after so many seconds at most."""
    settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(seconds * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ * 1000)]
    if newest and hasattr(cv2, "CAP_PROP_N_THREADS"):  # from OpenCV 4.7 on; each thread holds a frame back
        settings += [cv2.CAP_PROP_N_THREADS, 1]
    return open_aside(lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, settings), stop, display_name(url), TURN)


def _ask(url: str, stop: threading.Event) -> str:
    """The address of the server, which has just answered; FFmpeg's own wait could not be ended, or told apart."""
    parts, host, port = split_url(url)
    deadline = time.monotonic() + ANSWER
    wire = Wire(host, port, stop, deadline)
    try:
        target = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        wire.send(f"OPTIONS {target} RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: hybrid-edge\r\n\r\n".encode(), deadline)
        answer = wire.receive(deadline)
    finally:
        wire.close()
    if answer is None:
        raise SourceError(f"no answer from the server within {ANSWER} s")
    if not answer.startswith(b"RTSP/"):
        raise SourceError(f"expected an RTSP server, found one that answers {answer[:40]!r}")
    return wire.address


def _numeric(url: str, address: str) -> str:
    """The URL with the host's address for its name, as FFmpeg's own look-up of it could take half a minute."""
    parts, _, port = split_url(url)
    user, at, _ = parts.netloc.rpartition("@")
    host = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=f"{user}{at}{host}:{port}").geturl()
