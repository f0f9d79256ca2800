"""Read frames that come over a pipe as PNM: each states its own size, so that a change of size is never missed."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..opencv import MAX_PIXELS, cv2

__all__ = ["PnmReader"]

HEADER = re.compile(rb"P6\s(?:#[^\n]*\n)*(\d{1,6})\s(\d{1,6})\s255\s")
SHORTEST = len(b"P6 1 1 255 ")
LONGEST = 256


class PnmReader:
    """This reader assembles frames from a function that fills buffers, in as many steps as that needs."""

    def __init__(self, fill: Callable[[memoryview], int]) -> None:
        """Begin in front of a frame's header.

        Args:
            fill: puts the bytes that have come into a buffer and returns their number, 0 where none came yet.
        """
        self._fill = fill
        self._header = bytearray()
        self._pixels: npt.NDArray[np.uint8] | None = None  # of the frame that is being read, RGB
        self._filled = 0

    def next(self) -> npt.NDArray[np.uint8] | None:
        """Return the next frame, (H, W, 3) uint8 BGR; None while some of it has not come yet.

        Raises:
            SourceError: the bytes are no PNM frames, or a frame has more than ``MAX_PIXELS`` pixels.
        """
        if self._pixels is None:
            self._pixels = self._begin()
        if self._pixels is None:
            return None
        while self._filled < self._pixels.size:
            count = self._fill(memoryview(self._pixels.reshape(-1).data)[self._filled :])
            if not count:
                return None
            self._filled += count
        image, self._pixels = self._pixels, None
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR, dst=image), dtype=np.uint8)

    def _begin(self) -> npt.NDArray[np.uint8] | None:
        """Read a header, its end byte by byte, as pixels follow; return an array for them, None before its end."""
        while (match := HEADER.fullmatch(self._header)) is None:
            if len(self._header) > LONGEST:
                raise SourceError(f"expected frames as PNM from the pipeline, found {bytes(self._header[:40])!r}")
            piece = bytearray(max(SHORTEST - len(self._header), 1))
            count = self._fill(memoryview(piece))
            if not count:
                return None
            self._header += piece[:count]
        width, height = int(match[1]), int(match[2])
        if not 0 < width * height <= MAX_PIXELS:
            raise SourceError(f"expected frames of 1 to {MAX_PIXELS} pixels, found {width}x{height}")
        self._header.clear()
        self._filled = 0
        return np.empty((height, width, 3), np.uint8)
