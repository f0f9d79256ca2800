"""Classifies and encodes single pictures for who asks, one at a time, with a small share of the machine's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ..background import start_in_background
from ..errors import BackendError
from ..outputs.sink import UNKNOWN
from ..preprocess import decode_image
from .motion_jpeg import encode_jpeg

if TYPE_CHECKING:
    from ..classifier import Prediction
    from ..frame import Pixels

T = TypeVar("T")
Ask = Callable[["Pixels"], "Future[Prediction]"]

MAX_PLACES = 4  # who waits for an answer, the reading of a body included
SHARE = 0.05  # of the time, the most that is spent here; the rest is the pipeline's
MAX_REST = 30.0  # seconds between two pictures
ANSWER_TIME = 20.0  # seconds for an answer, the wait for others included


class Workbench:
    """This class does what costs more than telling a state; only the thread of its loop may use it.

    Work begins when so much time has passed since the last that the share is kept. ``ask`` gives a picture to the
    pipeline's own engine, and returns what it will say; it raises BackendError where nothing goes through any more.
    """

    def __init__(self, ask: Ask, top_k: int, min_probability: float) -> None:
        self._ask = ask
        self._min_probability = min_probability
        self._top_k = top_k
        self._places = 0
        self._turn = asyncio.Lock()
        self._rests_until = 0.0

    @property
    def full(self) -> bool:
        """Whether nobody else may wait for an answer."""
        return self._places >= MAX_PLACES

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place among those who wait, within this context."""
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    async def encode(self, picture: Pixels) -> bytes:
        """Return an (H, W, 3) uint8 BGR picture as JPEG."""
        return await self._in_time(self._encode(picture))

    async def classify(self, data: bytes) -> dict[str, Any]:
        """Return what the model says of an image file's bytes.

        Raises:
            ImageError: the bytes are no image, or one that is too large.
            BackendError: the engine failed, has no time, or the run is ending.
        """
        return await self._in_time(self._classify(data))

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(work, ANSWER_TIME)
        except (TimeoutError, asyncio.TimeoutError):
            raise BackendError(f"expected the engine to be free within {ANSWER_TIME:g} s; try again later") from None

    async def _encode(self, picture: Pixels) -> bytes:
        async with self._turn:
            return await self._do(lambda: encode_jpeg(picture))

    async def _classify(self, data: bytes) -> dict[str, Any]:
        async with self._turn:
            picture = await self._do(lambda: decode_image(data, "the picture"))
            prediction = await asyncio.wrap_future(self._ask(picture))
            self._rest(prediction.preprocess_ms / 1000 + prediction.inference_ms / 1000)
        top = prediction.top(self._top_k)
        return {
            "labels": [label for label, _ in top],
            "probabilities": [float(f"{probability:.7g}") for _, probability in top],
            "answer": prediction.label if prediction.probability >= self._min_probability else UNKNOWN,
            "preprocess_ms": round(prediction.preprocess_ms, 3),
            "inference_ms": round(prediction.inference_ms, 3),
            "width": picture.shape[1],
            "height": picture.shape[0],
        }

    async def _do(self, work: Callable[[], T]) -> T:
        """Do some work on a thread of its own, once its time has come."""
        await asyncio.sleep(self._rests_until - time.monotonic())
        begun = time.monotonic()
        try:
            return await asyncio.wrap_future(start_in_background(work, "web picture"))
        finally:
            self._rests_until = time.monotonic()
            self._rest(self._rests_until - begun)

    def _rest(self, worked: float) -> None:
        self._rests_until += min(MAX_REST, worked * (1 / SHARE - 1))
