"""A capture that is read on a thread of its own: whoever waits for its frames never waits for a call into C."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, SourceError
from ..opencv import cv2
from .calls import CALLS

__all__ = ["Reader"]

SLICE = 0.1  # seconds between two looks at ``stop``
ENDED = 8  # reads in a row that fail at once
AT_ONCE = 0.005  # seconds: at the end it was less than 0.0001
LAST = 0.3  # seconds for a read that is under way when it ends: enough where frames flow

Image = npt.NDArray[np.uint8]


class Reader:
    """Hands frames over, one at a time; while nobody takes it, the others wait in the network."""

    def __init__(self, capture: cv2.VideoCapture, stop: threading.Event) -> None:
        """Begin to read.

        Args:
            capture: open; released when the reading ends.
            stop: ends every wait early.
        """
        self._capture = capture
        self._stop = stop
        self._closed = threading.Event()
        self._taken = threading.Semaphore(0)  # one frame waits at most
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
            for frame in self._read():
                self._frames.put(frame)
                self._taken.acquire()
                if self._closed.is_set():
                    return
        finally:
            with CALLS.noted("release a stream"):
                self._capture.release()

    def _read(self) -> Iterator[Image | Exception]:
        """Frames, damaged ones as errors, the end as a last one."""
        bad = in_vain = 0  # reads without a frame: of damage, or of the end, where all the next ones fail at once
        while in_vain < ENDED and not self._closed.is_set():
            start = time.monotonic()
            try:
                with CALLS.noted("read a stream"):
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
