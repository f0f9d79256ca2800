"""Encodes pictures for viewers: on a thread of its own, the newest alone, once for all, not at all without one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..opencv import cv2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..frame import Pixels

PERIOD = 0.1  # seconds between two pictures
MAX_WIDTH = 960  # pixels
QUALITY = 80  # per cent, of JPEG


def encode_jpeg(picture: Pixels, max_width: int | None = None) -> bytes:
    """Encode an (H, W, 3) uint8 BGR picture, not wider than ``max_width`` pixels, as JPEG."""
    height, width = picture.shape[:2]
    if max_width is not None and width > max_width:
        # INTER_AREA looks better and takes five times as long: as long as all the rest together
        size = max_width, max(1, height * max_width // width)
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    _, encoded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    return encoded.tobytes()


class MotionJpeg:
    """Encodes the pictures of those sources that are watched; each viewer takes the newest when it is ready for one.

    ``picture`` returns a source's latest picture, or None. ``loop`` is that of the viewers.
    """

    def __init__(self, picture: Callable[[str], Pixels | None], loop: asyncio.AbstractEventLoop) -> None:
        self._picture = picture
        self._loop = loop
        self._watched: Counter[str] = Counter()
        self._newest: dict[str, tuple[int, bytes]] = {}
        self._encoded: dict[str, Pixels] = {}  # what the newest was made of
        self._changed = asyncio.Event()
        self._wanted = threading.Event()
        self._ended = False
        threading.Thread(target=self._run, name="pictures", daemon=True).start()

    @property
    def viewers(self) -> int:
        """How many viewers there are."""
        return self._watched.total()

    @contextmanager
    def watching(self, source: str) -> Iterator[None]:
        """Have a source's pictures encoded within this context."""
        self._watched[source] += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._watched[source] -= 1
            if not self._watched[source]:
                del self._watched[source]
                self._newest.pop(source, None)

    async def after(self, source: str, number: int) -> tuple[int, bytes]:
        """Return a watched source's newest picture and its number, once that is another than ``number``."""
        while source not in self._newest or self._newest[source][0] == number:
            await self._changed.wait()
        return self._newest[source]

    def close(self) -> None:
        """End the thread."""
        self._ended = True
        self._wanted.set()

    def _run(self) -> None:
        while self._wanted.wait() and not self._ended:
            begun = time.monotonic()
            watched = tuple(self._watched)
            if not watched:
                self._encoded.clear()
                self._wanted.clear()
                if self._watched:  # one came meanwhile
                    self._wanted.set()
                continue
            for source in watched:
                self._encode(source)
            time.sleep(max(0.0, begun + PERIOD - time.monotonic()))

    def _encode(self, source: str) -> None:
        picture = self._picture(source)
        if picture is None or (source in self._newest and self._encoded.get(source) is picture):
            return
        self._encoded[source] = picture
        jpeg = encode_jpeg(picture, MAX_WIDTH)
        if not self._ended:
            self._loop.call_soon_threadsafe(self._show, source, jpeg)

    def _show(self, source: str, jpeg: bytes) -> None:
        if source in self._watched:
            number = self._newest.get(source, (0, b""))[0]
            self._newest[source] = number + 1, jpeg
            self._changed.set()
            self._changed = asyncio.Event()
