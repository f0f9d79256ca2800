"""Starts work on a daemon thread, for calls into C that may never return: whoever waits can give up on them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from typing import TypeVar

T = TypeVar("T")


def start_in_background(work: Callable[[], T], name: str, turn: threading.Lock | None = None) -> Future[T]:
    """Run ``work`` on a thread of that name; its result, or what it raised, comes in the future that is returned.

    An executor's threads are no choice here: Python waits for them at its end, and a call that hangs has none. The
    future can be cancelled until the work begins; ``turn`` is waited for first and held meanwhile.
    """
    future: Future[T] = Future()

    def run() -> None:
        with turn or nullcontext():
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # whoever asks for the result gets it
                future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
