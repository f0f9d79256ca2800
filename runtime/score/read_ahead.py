"""Does work on threads ahead of whoever takes its results, in order, and no further ahead than it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from typing import TypeVar

from ..background import start_in_background

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Done = TypeVar("Done")


def read_ahead(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    work: Callable[[Item, Loaded], Done],
    pool: ThreadPoolExecutor,
    *,
    workers: int,
    ahead: int,
) -> Iterator[Done]:
    """Yield ``work(item, load(item))`` for every item, in their order; what any of them raises comes in its place.

    Items are taken and loaded one after another on one thread, which lets a file be read in order; ``work`` runs on the
    pool's ``workers`` threads. At most ``ahead`` results wait to be taken, and one item more than there are threads is
    loaded and not yet worked on.
    """
    results: Queue[Future[Done] | None] = Queue()
    waiting, loaded = threading.Semaphore(ahead), threading.Semaphore(workers + 1)
    stop = threading.Event()

    def feed() -> None:
        for item in items:
            waiting.acquire()
            loaded.acquire()
            if stop.is_set():
                return
            future = pool.submit(work, item, load(item))
            future.add_done_callback(lambda _: loaded.release())
            results.put(future)

    feeding = start_in_background(feed, "reading ahead")
    feeding.add_done_callback(lambda _: results.put(None))
    try:
        while (future := results.get()) is not None:
            yield future.result()
            waiting.release()
        feeding.result()
    finally:
        stop.set()
        waiting.release()
        loaded.release()
