"""Provides a bounded queue between two threads that either side can end, from any state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

__all__ = ["Channel"]

T = TypeVar("T")
END: Final = object()


class Channel(Generic[T]):
    """This queue hands items from one thread to another, first in, first out; any thread may call ``end``.

    It is made of ``SimpleQueue``, whose waiting is C: at batch 1 a condition variable costs more than preprocessing a
    small frame. An item that is put while another thread ends the channel may stay in it: ``remains`` returns it.

    Args:
        limit: the most items that wait in the channel.
        items: what is in the channel from the start, at most ``limit`` items.
    """

    def __init__(self, limit: int, items: Iterable[T] = ()) -> None:
        self._items: SimpleQueue[T | object] = SimpleQueue()
        self._room: SimpleQueue[object] = SimpleQueue()
        self._ended = False
        self._over = False
        for _ in range(limit):
            self._room.put(None)
        for item in items:
            self.put(item)

    def put(self, item: T) -> bool:
        """Add an item, once there is room; return False, with the item not added, if the channel has ended."""
        if self._ended or self._room.get() is END:
            self._room.put(END)
            return False
        self._items.put(item)
        return True

    def get(self, timeout: float | None = None) -> T | None:
        """Take the oldest item, once there is one.

        Args:
            timeout: seconds to wait at most; None: until there is an item or the channel has ended.

        Returns:
            The item; None where the time is over, or where the channel has ended and nothing is left in it.
        """
        try:
            item = self._items.get(True, timeout) if timeout != 0 else self._items.get_nowait()
        except Empty:
            return None
        if item is END:
            self._over = True
            self._items.put(END)  # so that the next call finds it too
            return None
        self._room.put(None)
        return item  # type: ignore[return-value]  # END was the only other thing

    def end(self) -> None:
        """End the channel and wake whoever waits: nothing more is added, what is in it can still be taken."""
        if not self._ended:
            self._ended = True
            self._items.put(END)
            self._room.put(END)

    @property
    def over(self) -> bool:
        """Whether ``get`` has found that the channel has ended and is empty."""
        return self._over

    def remains(self) -> list[T]:
        """Take everything that is still in the channel out of it, and return it."""
        left: list[T] = []
        with contextlib.suppress(Empty):
            while True:
                item = self._items.get_nowait()
                if item is not END:
                    left.append(item)  # type: ignore[arg-type]
        if self._ended:
            self._items.put(END)  # for whoever waits in get, or will
        return left
