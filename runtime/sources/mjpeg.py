"""Read Motion JPEG over HTTP in Python, so that every wait ends and each damaged frame is known and counted."""

from __future__ import annotations

import threading
import time
from email.message import Message

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..preprocess import decode_image
from .http_get import Answer, get
from .live import READ_WAIT
from .multipart import Chunks, Parts

__all__ = ["PATIENCE", "MjpegConnection", "open_mjpeg"]


PATIENCE = 2.0  # seconds without a frame after which the stream has stalled


class MjpegConnection:
    """This connection reads the frames of one HTTP response."""

    def __init__(self, answer: Answer, patience: float) -> None:
        self.patience = patience
        self._wire = answer.wire
        self._chunks = Chunks() if "chunked" in answer.head.get("Transfer-Encoding", "").lower() else None
        self._parts = Parts(_boundary(answer.head))
        self._feed(answer.rest)

    def read(self) -> npt.NDArray[np.uint8] | None:
        """Return the next frame, (H, W, 3) uint8 BGR; None if none was complete within ``READ_WAIT``, or on a stop.

        Raises:
            ImageError: a frame can't be decoded.
            SourceError: the stream ended, or a part of it has no end.
        """
        deadline = time.monotonic() + READ_WAIT
        while (part := self._parts.next()) is None:
            data = self._wire.receive(deadline)
            if data == b"":
                raise SourceError("the server ended the stream")
            if data is not None:
                self._feed(data)
            if data is None or time.monotonic() > deadline:  # a server that dribbles is not waited for either
                return None
        return decode_image(part, "frame")

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def _feed(self, data: bytes) -> None:
        self._parts.feed(data if self._chunks is None else self._chunks.feed(data))


def open_mjpeg(url: str, stop: threading.Event, patience: float) -> MjpegConnection:
    """Ask a server for a stream, with the name and password in the URL if the server wants them.

    Args:
        url: the address, ``http://`` or ``https://``.
        stop: an event that, once set, ends every wait early.
        patience: seconds without a frame after which the connection is to be given up.

    Raises:
        SourceError: the server gave no connection or no answer in time, refused, or sent no ``multipart`` of frames.
    """
    answer = get(url, stop)
    kind = answer.head.get_content_type()
    if answer.head.get("Content-Type") is None or kind.startswith("multipart/"):
        try:
            return MjpegConnection(answer, patience)
        except BaseException:
            answer.wire.close()
            raise
    answer.wire.close()
    hint = "; that is one picture, look for the camera's video URL" if kind.startswith("image/") else ""
    raise SourceError(f"expected motion JPEG (multipart/x-mixed-replace), found {kind}{hint}")


def _boundary(head: Message) -> str | None:
    boundary = head.get_param("boundary")
    return boundary if isinstance(boundary, str) and boundary.strip('"-') else None
