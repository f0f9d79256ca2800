"""Where captured frames wait for the model, and where every one of them is counted.

One lock guards all mailboxes of a pipeline, so that at every moment, for every source,

    captured == classified + dropped + unreadable + waiting

with ``waiting`` counted by itself: frames in the mailbox and frames on their way through the model.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ...frame import Frame
from ..result import SourceStatus
from .batch import Entry

__all__ = ["Intake", "Mailbox"]

QUEUE = 8  # decoded frames of a source of which every one counts; enough to bridge uneven decoding
ENOUGH = QUEUE // 2  # of them at a time: each waking of a thread costs as much as preprocessing a small frame
QUEUE_BYTES = 2**26  # 64 MiB: of photographs of 100 megapixels, no more than one waits
ERRORS = 64  # unreadable frames of a live source that wait to be written; all are counted
SILENCE = 2.0  # seconds without a frame after which a live source no longer flows


class Mailbox:
    """One source's waiting frames and counts; its ``Intake`` holds the lock.

    Args:
        name: the source's.
        live: whether it is a camera or a stream.
        newest: keep the newest frame alone and count the others as dropped; else every frame waits its turn.
    """

    def __init__(self, name: str, *, live: bool, newest: bool) -> None:
        self.name = name
        self.live = live
        self.newest = newest
        self.frames: deque[Frame] = deque()
        self.errors: deque[Frame] = deque(maxlen=ERRORS)
        self.size = 0  # bytes of the frames that wait
        self.inside = 0  # frames taken and not yet settled
        self.captured = self.classified = self.dropped = self.unreadable = 0
        self.latest = -SILENCE
        self.ended = False

    @property
    def full(self) -> bool:
        """Whether the source has to wait."""
        return len(self.frames) >= QUEUE or (bool(self.frames) and self.size >= QUEUE_BYTES)

    @property
    def worth_taking(self) -> bool:
        """Whether enough waits to wake whoever is in no hurry."""
        return len(self.frames) >= ENOUGH or self.full

    def push(self, frame: Frame) -> Frame | None:
        """Add a captured frame; returns the one that it replaced."""
        self.captured += 1
        self.latest = time.monotonic()
        if self.newest and frame.image is None:
            # it must neither push out a good frame nor be pushed out by one
            self.unreadable += 1
            self.errors.append(frame)
            return None
        replaced = self.pop() if self.newest and self.frames else None
        self.dropped += replaced is not None
        self.frames.append(frame)
        self.size += _size(frame)
        return replaced

    def pop(self) -> Frame:
        """Take the oldest frame out."""
        frame = self.frames.popleft()
        self.size -= _size(frame)
        return frame

    def clear(self) -> None:
        """Give up everything that waits."""
        self.dropped += len(self.frames)
        self.frames.clear()
        self.errors.clear()
        self.size = 0

    def status(self, reconnects: int) -> SourceStatus:
        """The counts as they are now."""
        flowing = not self.ended and (not self.live or time.monotonic() - self.latest < SILENCE)
        return SourceStatus(
            self.name,
            self.captured,
            self.classified,
            self.dropped,
            self.unreadable,
            len(self.frames) + self.inside,
            reconnects,
            flowing,
        )


class Intake:
    """All mailboxes of a pipeline: captures put frames in, one thread takes them out, source by source in turn.

    Args:
        boxes: one for each source.
        fresh: never take a newest-frame source's next frame while one of it is on its way: it would be old on arrival.
        patient: nobody waits for a frame by itself: several may be handed over at a time.
    """

    def __init__(self, boxes: Sequence[Mailbox], *, fresh: bool, patient: bool = False) -> None:
        self.boxes = tuple(boxes)
        self._fresh = fresh
        self._patient = patient
        self._turn = 0
        self._closed = False
        self._hungry = False
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._emptied = threading.Condition(lock)

    def put(self, box: Mailbox, frame: Frame) -> bool:
        """Add a captured frame: at once where the newest wins, else once there is room; False after ``close``."""
        with self._filled:
            while not box.newest and box.full and not self._closed:
                self._emptied.wait()
            if self._closed:
                return False
            replaced = box.push(frame)
            if self._hungry and (not self._patient or box.worth_taking):
                self._filled.notify()
        del replaced  # its memory goes back outside the lock
        return True

    def lose(self, box: Mailbox) -> None:
        """Count a frame that was there and could not be kept for want of memory."""
        with self._filled:
            box.captured += 1
            box.dropped += 1

    def end(self, box: Mailbox) -> None:
        """No frame will come from this source any more."""
        with self._filled:
            box.ended = True
            self._filled.notify()

    def take(self, deadline: float | None) -> Entry | None:
        """The next frame of the next source that has one, which counts as on its way until it is settled.

        Args:
            deadline: until when to wait, ``time.monotonic()`` seconds; None: as long as frames can come.

        Returns:
            None where the time is over, every source has ended, or the intake was closed.
        """
        with self._filled:
            while True:
                entry = self._next()
                if entry is not None or self._closed or self._drained():
                    return entry
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return None
                self._hungry = True
                self._filled.wait(remaining)
                self._hungry = False

    def settle(self, entries: Iterable[Entry], *, failed: bool = False) -> None:
        """Count frames whose batch is done: classified, or dropped where it failed; unreadable ones as such."""
        with self._filled:
            for entry in entries:
                box = entry.box
                if not entry.counted:
                    box.inside -= 1
                    if entry.row < 0:
                        box.unreadable += 1
                    elif failed:
                        box.dropped += 1
                    else:
                        box.classified += 1
                entry.dropped = box.dropped
            if self._hungry:
                self._filled.notify()

    def give_up(self, entries: Iterable[Entry]) -> None:
        """Count frames that will go no further as dropped, readable or not."""
        with self._filled:
            for entry in entries:
                if not entry.counted:
                    entry.box.inside -= 1
                    entry.box.dropped += 1

    def close(self) -> None:
        """Give up what waits and take nothing more; wakes whoever waits here."""
        with self._filled:
            self._closed = True
            for box in self.boxes:
                box.clear()
            self._filled.notify_all()
            self._emptied.notify_all()

    @property
    def over(self) -> bool:
        """Whether nothing will ever be taken again."""
        with self._filled:
            return self._closed or self._drained()

    def status(self, reconnects: Callable[[str], int]) -> tuple[SourceStatus, ...]:
        """Every source's counts at one moment; ``reconnects`` tells how often a source came back."""
        again = [reconnects(box.name) for box in self.boxes]
        with self._filled:
            return tuple(box.status(count) for box, count in zip(self.boxes, again, strict=True))

    def _drained(self) -> bool:
        return all(box.ended and not box.frames and not box.errors for box in self.boxes)

    def _next(self) -> Entry | None:
        count = len(self.boxes)
        for offset in range(count):
            place = (self._turn + offset) % count
            box = self.boxes[place]
            if box.errors:
                return Entry(box, box.errors.popleft(), counted=True)
            if box.frames and not (self._fresh and box.newest and box.inside):
                self._turn = (place + 1) % count
                return self._taken(box)
        return None

    def _taken(self, box: Mailbox) -> Entry:
        entry = Entry(box, box.pop())
        box.inside += 1
        if not box.newest and len(box.frames) <= QUEUE - ENOUGH:
            self._emptied.notify_all()
        return entry


def _size(frame: Frame) -> int:
    return 0 if frame.image is None else frame.image.nbytes
