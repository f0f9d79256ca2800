"""A capture that is read on a thread of its own: whoever waits for its frames never waits for a call into C."""

from __future__ import annotations

import queue
import threading
import time

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, SourceError
from ..opencv import cv2

__all__ = ["Reader"]

SLICE = 0.1  # seconds between two looks at ``stop``
LAST = 0.3  # seconds for a read that is under way when it ends: enough where frames flow

Image = npt.NDArray[np.uint8]


class Reader:
    """Hands frames over, one at a time: the next is decoded meanwhile, those after it wait in the network."""

    def __init__(self, capture: cv2.VideoCapture, stop: threading.Event) -> None:
        """Begin to read.

        Args:
            capture: open; released when the reading ends.
            stop: ends every wait early.
        """
        self._capture = capture
        self._stop = stop
        self._closed = threading.Event()
        self._taken = threading.Semaphore()  # one frame waits at most
        self._frames = queue.SimpleQueue[Image | Exception]()
        self._thread = threading.Thread(target=self._run, name="reading a stream", daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> Image | None:
        """The next frame, (H, W, 3) uint8 BGR; None where none came in time, or on a stop.

        Raises:
            ImageError: the decoder failed; the next frame may be good.
            MemoryError: likewise, for want of memory.
            SourceError: there are no more.
        """
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            try:
                frame = self._frames.get(timeout=min(SLICE, left))
            except queue.Empty:
                continue
            self._taken.release()
            if isinstance(frame, Exception):
                raise frame
            return frame
        return None

    def close(self) -> None:
        """End the reading; a read that hangs ends by its own time limit, and nobody waits for it."""
        self._closed.set()
        self._taken.release()
        self._thread.join(LAST)

    def _run(self) -> None:
        try:
            while self._taken.acquire() and not self._closed.is_set():
                self._frames.put(self._read())
        except SourceError as error:
            self._frames.put(error)
        finally:
            self._capture.release()

    def _read(self) -> Image | Exception:
        try:
            there, image = self._capture.read()
        except cv2.error as error:
            return ImageError(f"the video decoder failed: {error.err}")
        except MemoryError as error:
            return error
        if not there:
            raise SourceError("the server ended the stream")
        return np.asarray(image, dtype=np.uint8)
