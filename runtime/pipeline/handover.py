"""Holds what the stages of a pipeline share: batches, the channels that carry them, their pace, and what each is doing.

preprocess ──ready──► infer ──done──► deliver
     ▲                  │
     └───────free───────┘       the engine's input memory goes round; Pace tells preprocess when infer will be free
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ..opencv import cv2
from ..sources.events import Events
from .mailbox import Intake
from .pending_frame import PendingFrame

if TYPE_CHECKING:
    from ..frame import Outputs
    from .models import Model, Slot

T = TypeVar("T")
END: Final = object()
HANDOVER_TIME = 1e-3  # seconds that a batch takes from one thread to the next, on a busy machine
NEWEST_WEIGHT = 0.2  # weight of the newest time in a running mean
MEMORY_ERRORS = (MemoryError, cv2.error)
"""What to catch and ask ``is_shortage`` about: OpenCV has one error for everything."""

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
MMAP_BYTES = 2**25  # 32 MiB, the most that glibc takes for M_MMAP_THRESHOLD; a 4K frame has 24 MiB
FREED_BYTES = 2**27  # 128 MiB of freed memory that the process keeps


@dataclass(eq=False, slots=True)
class Batch:
    """Frames in the order in which they were taken, readable or not, and the input memory that holds their tensors.

    Attributes:
        slot: the model, and the input memory that its backend lends until the batch is done.
        rows: how many of the frames are readable.
        size: bytes of all their images.
        outputs: what the model said; None before that, and where the engine failed.
        inference_ms: the whole batch's time in the engine, milliseconds.
        finished: when the batch was done, ``time.monotonic()`` seconds.
        model: which model's the outputs are: the slot's, unless that failed and another computed them.
    """

    slot: Slot
    frames: list[PendingFrame] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    outputs: Outputs | None = None
    inference_ms: float = 0.0
    finished: float = 0.0
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.slot.model

    def add(self, pending: PendingFrame) -> None:
        """Append a frame whose tensors are in row ``rows``, or one that could not be read."""
        if pending.frame.error is None:
            pending.row = self.rows
            self.rows += 1
        picture = pending.frame.picture
        if picture is not None and not (self.frames and self.frames[-1].frame.picture is picture):  # regions share one
            self.size += picture.nbytes
        self.frames.append(pending)


class Channel(Generic[T]):
    """A queue that hands items from one thread to another, first in, first out; any thread may call ``end``.

    It is made of ``SimpleQueue``, whose waiting is C: at batch 1 a condition variable costs more than preprocessing a
    small frame (``queue.Queue`` is made of those, and its ``shutdown`` needs Python 3.13). A limited time is waited for
    at a lock: ``SimpleQueue`` waits for ever where a signal's handler returns after the time is over. An item that is
    put while another thread ends the channel may stay in it: ``remains`` returns it. At most ``limit`` items wait in
    it, with those that it has from the start.
    """

    def __init__(self, limit: int, items: Iterable[T] = ()) -> None:
        self._items: SimpleQueue[T | object] = SimpleQueue()
        self._room: SimpleQueue[object] = SimpleQueue()
        self._came = threading.Lock()  # held until something comes
        self._ended = False
        self.over = False
        """Whether ``get`` has found that the channel has ended and is empty."""
        for _ in range(limit):
            self._room.put(None)
        for item in items:
            self.put(item)

    def put(self, item: T) -> bool:
        """Add an item, once there is room; return False, with the item not added, if the channel has ended."""
        if self._ended or self._room.get() is END:
            self._room.put(END)
            return False
        self._add(item)
        return True

    def get(self, timeout: float | None = None) -> T | None:
        """Take the oldest item, once there is one.

        It is None where ``timeout`` seconds are over, or where the channel has ended and nothing is left in it.
        Only one thread takes items where one waits for a limited time.
        """
        item = self._items.get() if timeout is None else self._get_in_time(timeout)
        if item is None:
            return None
        if item is END:
            self.over = True
            self._add(END)  # so that the next call finds it too
            return None
        self._room.put(None)
        return item  # type: ignore[return-value]  # END was the only other thing

    def end(self) -> None:
        """End the channel and wake whoever waits: nothing more is added, what is in it can still be taken."""
        if not self._ended:
            self._ended = True
            self._add(END)
            self._room.put(END)

    def remains(self) -> list[T]:
        """Take everything that is still in the channel out of it, and return it."""
        left: list[T] = []
        with contextlib.suppress(Empty):
            while True:
                item = self._items.get_nowait()
                if item is not END:
                    left.append(item)  # type: ignore[arg-type]
        if self._ended:
            self._add(END)  # for whoever waits in get, or will
        return left

    def _add(self, item: T | object) -> None:
        self._items.put(item)
        with contextlib.suppress(RuntimeError):  # nobody has found it empty since something came before
            self._came.release()

    def _get_in_time(self, timeout: float) -> T | object | None:
        deadline = time.monotonic() + timeout
        while self._items.empty():
            left = deadline - time.monotonic()
            if left <= 0 or not self._came.acquire(timeout=left):
                return None
        return self._items.get_nowait()


class Pace:
    """Follows the batches between preprocessing and the engine, and tells when to take a live source's next frames.

    A frame that is taken the moment its mailbox has one is old when a slow engine gets to it. So frames are taken when
    the engine is idle, or will be by the time they are preprocessed; earlier by ``max_wait``, the seconds for which a
    batch may wait for more frames. Any thread may use it.
    """

    def __init__(self, max_wait: float = 0.0) -> None:
        self._max_wait = max_wait
        self._changed = threading.Condition()
        self._batches = 0  # batches that were handed over and are not finished
        self._started = 0.0  # when the engine began with the oldest of them; 0 before that
        self._engine = self._preparing = 0.0  # running means, seconds a batch
        self._closed = False

    def wait(self) -> None:
        """Return when it is time to take frames."""
        if self._closed:  # where every frame counts, it is so from the start, and no lock is waited for
            return
        with self._changed:
            while self._batches and not self._closed:
                remaining = self._remaining() if self._started and self._engine else None
                if remaining is not None and remaining <= 0:
                    return
                self._changed.wait(remaining)

    def hand_over(self, preparing: float) -> None:
        """Note that a batch goes to the engine, and that preprocessing it took ``preparing`` seconds."""
        if self._closed:
            return
        with self._changed:
            self._batches += 1
            self._preparing = _mean(self._preparing, preparing)

    def start(self) -> None:
        """Note that the engine begins with a batch."""
        if self._closed:
            return
        with self._changed:
            self._started = time.monotonic()
            self._changed.notify()

    def finish(self, seconds: float | None) -> None:
        """Note that the engine is free again after ``seconds``; None where the batch had no row for it."""
        if self._closed:
            return
        with self._changed:
            self._batches -= 1
            self._started = 0.0
            if seconds is not None:
                self._engine = _mean(self._engine, seconds)
            self._changed.notify()

    def close(self) -> None:
        """End every wait, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _remaining(self) -> float:
        ahead = self._preparing + HANDOVER_TIME + self._max_wait
        return self._started + self._engine - ahead - time.monotonic()


def _mean(before: float, now: float) -> float:
    return before + NEWEST_WEIGHT * (now - before) if before else now


class StageClock:
    """A stage's own thread notes here each call that may hang, as a context; any thread may read how long it lasts.

    Attributes:
        since: when the current call began, ``time.monotonic()`` seconds; 0 while the stage waits for work.
        failed: whether a call has raised anything.
    """

    def __init__(self) -> None:
        self.since = 0.0
        self.failed = False

    def __enter__(self) -> float:
        self.since = time.monotonic()
        return self.since

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.since = 0.0
        self.failed = self.failed or kind is not None


@dataclass(frozen=True, eq=False)
class Links:
    """The channels between the stages, and what else they share.

    Attributes:
        intake: the mailboxes, where captured frames wait.
        free: the engine's input memory that no batch uses; ``Models`` exchanges it for a newer model's.
        ready: preprocessed batches for the engine, up to ``together`` in one item.
        done: finished batches for the outputs, up to ``together`` in one item.
        pace: says when to take live frames; it is closed where every frame counts.
        halt: set when the pipeline is to end before its sources do.
        clocks: what ``preprocess``, ``infer`` and ``output`` are doing, by these names.
    """

    intake: Intake
    free: Channel[Slot]
    ready: Channel[list[Batch]]
    done: Channel[list[Batch]]
    together: int
    pace: Pace
    events: Events
    halt: threading.Event = field(default_factory=threading.Event)
    clocks: Mapping[str, StageClock] = field(
        default_factory=lambda: {name: StageClock() for name in ("preprocess", "infer", "output")}
    )

    def give_up(self, batches: Iterable[Batch]) -> None:
        """Count the frames of these batches, which go no further, as dropped."""
        for batch in batches:
            self.intake.give_up(batch.frames)

    def stop(self) -> None:
        """End the pipeline early: what is in the engine is finished, everything before it is given up."""
        self.halt.set()
        self.intake.close()
        self.free.end()
        self.ready.end()
        self.pace.close()


def keep_frame_memory() -> bool:
    """Reuse the memory of freed frames for the next ones, in this process, from now on.

    By default glibc gives large blocks back to the system each time several frames are freed together, and the kernel
    clears the pages of every new frame: of a 640 x 480 video that took 250 µs a frame, more than half as long as
    decoding it. Return False where the C library has no such settings or refuses them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    settings = {M_MMAP_THRESHOLD: MMAP_BYTES, M_TRIM_THRESHOLD: FREED_BYTES, M_ARENA_MAX: 1}
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)


def is_shortage(error: Exception) -> bool:
    """Return whether an error of ``MEMORY_ERRORS`` means that memory did not suffice, and not a bug."""
    # OpenCV's text; its code is an attribute of the class, not of the error
    return not isinstance(error, cv2.error) or "Insufficient memory" in str(error)


def one_line(error: Exception) -> str:
    """Return an error's text on one line, for an event."""
    return " ".join(str(error).split())
