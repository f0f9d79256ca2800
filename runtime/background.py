"""Starts work on a daemon thread, for calls into C that may never return: whoever waits can give up on them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["start_in_background"]

T = TypeVar("T")


def start_in_background(work: Callable[[], T], name: str) -> Future[T]:
    """Run ``work`` on a thread of that name; its result, or what it raised, comes in the future that is returned.

    An executor's threads are no choice here: Python waits for them at its end, and a call that hangs has none.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
