"""Read a capture on a thread of its own, so that whoever waits for its frames never waits for a call into C."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, SourceError
from ..opencv import cv2
from .blocking import BLOCKING_CALLS

__all__ = ["Reader"]

SLICE = 0.1  # seconds between two looks at ``stop``
ENDED = 8  # reads in a row that fail at once, after which the stream has ended
AT_ONCE = 0.005  # seconds within which a read fails at once; after a stream's end it took less than 0.0001
LAST = 0.3  # seconds that closing waits for the read under way: enough where frames flow

Image = npt.NDArray[np.uint8]


class Reader:
    """This reader hands over one frame at a time; while nobody takes it, the following ones wait in the network."""

    def __init__(self, capture: cv2.VideoCapture, stop: threading.Event) -> None:
        """Start the thread that reads.

        Args:
            capture: an open capture, which is released when the reading ends.
            stop: an event that, once set, ends every wait early.
        """
        self._capture = capture
        self._stop = stop
        self._closed = threading.Event()
        self._taken = threading.Semaphore(0)  # one frame waits at most
        self._frames = queue.SimpleQueue[Image | Exception]()
        self._thread = threading.Thread(target=self._run, name="reading a stream", daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> Image | None:
        """Return the next frame, (H, W, 3) uint8 BGR; None if none came within ``seconds``, or on a stop.

        Raises:
            ImageError: the decoder failed, and the next frame may be good.
            MemoryError: the memory did not suffice for a frame, and the next one may be good.
            SourceError: there are no more frames.
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
        """End the reading; a read that hangs ends by its own time limit, and is not waited for."""
        self._closed.set()
        self._taken.release()
        self._thread.join(LAST)

    def _run(self) -> None:
        try:
            for frame in self._read():
                self._frames.put(frame)
                self._taken.acquire()
                if self._closed.is_set():
                    return
        finally:
            with BLOCKING_CALLS.noted("release a stream"):
                self._capture.release()

    def _read(self) -> Iterator[Image | Exception]:
        """Yield frames, an error for damaged ones, and at the end of the stream a last error."""
        bad = in_vain = 0  # reads without a frame: damage, or the stream's end, after which every read fails at once
        while in_vain < ENDED and not self._closed.is_set():
            start = time.monotonic()
            try:
                with BLOCKING_CALLS.noted("read a stream"):
                    there, image = self._capture.read()
            except (cv2.error, MemoryError) as error:
                yield ImageError(f"the video decoder failed: {error.err}") if isinstance(error, cv2.error) else error
                continue
            waited = time.monotonic() - start > AT_ONCE
            if bad and (there or waited):
                yield ImageError(f"{bad} damaged frame{'s' * (bad > 1)}")
                bad = 0
            if there:
                in_vain = 0
                yield np.asarray(image, dtype=np.uint8)
            else:
                bad, in_vain = bad + 1, 0 if waited else in_vain + 1
        yield SourceError("the server ended the stream")
