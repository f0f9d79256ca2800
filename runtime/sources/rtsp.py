"""Read RTSP through OpenCV's FFmpeg, on other threads, once the server has been asked whether it is there.

What FFmpeg does was measured (OpenCV 5). A read that meets FFmpeg's time limit drains the decoder, gives an old frame
or none, and never another one: the connection is over. That limit is therefore longer than ours. OpenCV opens one
capture at a time, whatever the thread, so opening must not include the wait for a key frame, which takes seconds. The
resolution of a session is that of its first frame: OpenCV scales what comes after a change.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..opencv import cv2
from .blocking import open_capture
from .ffmpeg_options import probing, set_stream_options
from .live import READ_WAIT
from .names import display_name, split_url
from .reader import Reader
from .wire import Wire

__all__ = ["PATIENCE", "RtspConnection", "open_rtsp"]

ANSWER = 2.5  # seconds to the server's first answer, below what connecting again may take
OPEN = 5.0  # seconds to open where a server answers, perhaps slow and far away; other streams have to wait meanwhile
FIRST = 8.0  # seconds to the first frame, as a key frame may be long in coming
PATIENCE = 2.0  # seconds without a frame after which the stream has stalled
READ = FIRST + 1.0  # seconds after which FFmpeg gives up a read
TURN = threading.Lock()  # OpenCV has such a lock too; a wait for this one is not taken for a call that hangs


class RtspConnection:
    """This connection is one RTSP session.

    Attributes:
        patience: seconds without a frame after which the session is to be given up; more before the first frame.
    """

    def __init__(self, capture: cv2.VideoCapture, stop: threading.Event, patience: float) -> None:
        self.patience = max(FIRST, patience)
        self._patience = patience
        self._reader = Reader(capture, stop)

    def read(self) -> npt.NDArray[np.uint8] | None:
        """Return the next frame, (H, W, 3) uint8 BGR; None if none came within ``READ_WAIT``, or on a stop.

        Raises:
            ImageError: the decoder failed.
            SourceError: the stream ended.
        """
        image = self._reader.next(READ_WAIT)
        if image is not None:
            self.patience = self._patience
        return image

    def close(self) -> None:
        """Close the session; one that is silent ends by itself, in ``READ`` seconds at most."""
        self._reader.close()


def open_rtsp(url: str, stop: threading.Event, *, newest: bool, patience: float = PATIENCE) -> RtspConnection:
    """Open a stream, H.264 or whatever else FFmpeg decodes, over TCP.

    Args:
        url: the address, ``rtsp://``.
        stop: an event that, once set, ends the wait; a session being opened then closes itself, in ``OPEN`` seconds.
        newest: whether to decode without delay, on one thread; otherwise several threads decode, each a frame later.
        patience: seconds without a frame after which the connection is to be given up.

    Raises:
        SourceError: the server is not there or does not answer in time, has no such stream, refuses the password, or
            ``stop`` was set.
    """
    address = _ask(url, stop)
    set_stream_options()
    numeric = _numeric(url, address)
    capture = _open(numeric, stop, OPEN, newest=newest)
    if capture.isOpened() and not capture.get(cv2.CAP_PROP_FRAME_WIDTH):  # this server tells it only with the frames
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
    """Return a capture, open or not, after so many seconds at most."""
    settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(seconds * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ * 1000)]
    if newest and hasattr(cv2, "CAP_PROP_N_THREADS"):  # from OpenCV 4.7 on; each thread holds a frame back
        settings += [cv2.CAP_PROP_N_THREADS, 1]
    return open_capture(lambda: cv2.VideoCapture(url, cv2.CAP_FFMPEG, settings), stop, display_name(url), TURN)


def _ask(url: str, stop: threading.Event) -> str:
    """Return the server's address once it has answered; FFmpeg's own wait can't be ended, nor its errors told apart."""
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
    """Return the URL with the host's address for its name, as FFmpeg's own look-up could take half a minute."""
    parts, _, port = split_url(url)
    user, at, _ = parts.netloc.rpartition("@")
    host = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=f"{user}{at}{host}:{port}").geturl()
