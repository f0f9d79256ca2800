"""RTSP through OpenCV's FFmpeg, asked first whether anybody is there, and opened where a stop need not wait for it.

What FFmpeg does was measured (OpenCV 5): a read that meets its time limit drains the decoder, gives an old frame or
none, and never another one: the connection is over. ``release`` never waited. The resolution of a session is that of
its first frame: OpenCV scales what comes after a change.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, SourceError
from ..opencv import cv2
from .aside import open_aside
from .ffmpeg_options import set_stream_options
from .names import split_url
from .wire import Wire

__all__ = ["RtspConnection", "open_rtsp"]

ANSWER = 2.5  # seconds to a first answer: below what coming back may take
OPEN = 8.0  # seconds for a server that does answer: slow cameras, far away, and the wait for a key frame
READ = 1.2
OVER = 0.95 * READ


class RtspConnection:
    """One RTSP session."""

    patience = 0.0

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    def read(self) -> npt.NDArray[np.uint8] | None:
        """The next frame, (H, W, 3) uint8 BGR; None where none came within ``READ``: none will.

        Raises:
            ImageError: the decoder failed.
            SourceError: the stream ended.
        """
        start = time.monotonic()
        try:
            there, image = self._capture.read()
        except cv2.error as error:
            raise ImageError(f"the video decoder failed: {error.err}") from None
        if time.monotonic() - start > OVER:
            return None
        if not there:
            raise SourceError("the server ended the stream")
        return np.asarray(image, dtype=np.uint8)

    def close(self) -> None:
        """End the session."""
        self._capture.release()


def open_rtsp(url: str, stop: threading.Event, *, newest: bool) -> RtspConnection:
    """Open a stream, H.264 or whatever else FFmpeg decodes, over TCP.

    Args:
        url: ``rtsp://``.
        stop: ends the waiting early; a session that is just being opened then closes itself, in ``OPEN`` seconds.
        newest: decode without delay on one thread; otherwise on several, a frame later for each.

    Raises:
        SourceError: nobody there, no answer in time, no such stream, a wrong password, or ``stop``.
    """
    address = _ask(url, stop)
    set_stream_options()
    settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ * 1000)]
    if newest and hasattr(cv2, "CAP_PROP_N_THREADS"):  # from OpenCV 4.7 on; each thread holds a frame back
        settings += [cv2.CAP_PROP_N_THREADS, 1]
    numeric = _numeric(url, address)
    capture = open_aside(lambda: cv2.VideoCapture(numeric, cv2.CAP_FFMPEG, settings), stop)
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            "the server answers, and gives no video: wrong path, name or password, or a codec that FFmpeg lacks"
        )
    return RtspConnection(capture)


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
