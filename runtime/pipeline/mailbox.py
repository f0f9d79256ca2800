"""Keeps captured frames that wait for the model, and counts every one of them.

    capture thread A ──put──► Mailbox A (the newest frame)  ─┐
    capture thread B ──put──► Mailbox B (up to QUEUE frames) ─┴─► Intake.take, in turn ──► a batch ──► settle, give_up

A source with regions has a mailbox for each; what was captured together is put, and taken, together. One lock guards
all mailboxes of a pipeline, so that at every moment, for every source and every region,

    captured == classified + dropped + unreadable + waiting

with ``waiting`` counted by itself: frames in the mailbox and frames on their way through the model.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ..errors import BackendError
from ..frame import Frame, Pixels, region_name
from ..outputs.sink import SourceStatus
from .pending_frame import PendingFrame

if TYPE_CHECKING:
    from ..classifier import Prediction

QUEUE = 8  # decoded frames that wait, of a source whose every frame counts; enough to bridge uneven decoding
WAKE_FRAMES = QUEUE // 2  # frames to wake a thread for: each waking costs as much as preprocessing a small frame
QUEUE_BYTES = 2**26  # 64 MiB of frames that wait: no more than one photograph of 100 megapixels
MAX_ERRORS = 64  # unreadable frames of a live source that wait to be written; all are counted
NOT_ANSWERED = "expected a run that goes on, found one that ends, or short of memory; try again"
FLOW_TIMEOUT = 2.0  # seconds without a frame after which a live source no longer flows


class Mailbox:
    """The waiting frames and counts of one source, or of one region; its ``Intake`` holds the lock around every call.

    Of a ``newest`` one the newest frame alone is kept and the others count as dropped; else every frame waits its turn.
    """

    def __init__(self, source: str, *, live: bool, newest: bool, region: str = "") -> None:
        self.name = region_name(source, region)
        self.source = source
        self.region = region
        self.live = live
        self.newest = newest
        self.frames: deque[Frame] = deque()
        self.errors: deque[Frame] = deque(maxlen=MAX_ERRORS)
        self.size = 0  # bytes of the frames that wait
        self.inside = 0  # frames taken and not yet settled
        self.captured = self.classified = self.dropped = self.unreadable = 0
        self.latest = -FLOW_TIMEOUT
        self.ended = False

    @property
    def full(self) -> bool:
        """Whether the source has to wait before it adds another frame."""
        return len(self.frames) >= QUEUE or (bool(self.frames) and self.size >= QUEUE_BYTES)

    @property
    def worth_taking(self) -> bool:
        """Whether so many frames wait that waking a thread in no hurry pays."""
        return len(self.frames) >= WAKE_FRAMES or self.full

    def push(self, frame: Frame) -> Frame | None:
        """Add a captured frame; return the frame that it replaced, or None."""
        self.captured += 1
        self.latest = time.monotonic()
        if self.newest and frame.image is None:
            # an unreadable frame must neither push out a good one nor be pushed out by one
            self.unreadable += 1
            self.errors.append(frame)
            return None
        replaced = self.pop() if self.newest and self.frames else None
        self.dropped += replaced is not None
        self.frames.append(frame)
        self.size += _size(frame)
        return replaced

    def pop(self) -> Frame:
        """Take the oldest frame out and return it."""
        frame = self.frames.popleft()
        self.size -= _size(frame)
        return frame

    def clear(self) -> None:
        """Give up everything that waits, and count its frames as dropped."""
        self.dropped += len(self.frames)
        self.frames.clear()
        self.errors.clear()
        self.size = 0

    def status(self, reconnects: int) -> SourceStatus:
        """Return the counts as they are now, with ``reconnects``, how often the source's frames flowed again."""
        flowing = not self.ended and (not self.live or time.monotonic() - self.latest < FLOW_TIMEOUT)
        return SourceStatus(
            self.name,
            self.captured,
            self.classified,
            self.dropped,
            self.unreadable,
            len(self.frames) + self.inside,
            reconnects,
            flowing,
            self.source,
            self.region,
        )


class Intake:
    """All mailboxes of all sources: captures put frames in, one thread takes them out, source by source in turn.

    Args:
        sources: each source's mailboxes: one, or one for each of its regions.
        fresh: whether to leave a newest-frame source's next frame while one of it is on its way: it would be old on
            arrival.
        patient: whether nobody waits for a frame by itself, so that several may be handed over at a time.
    """

    def __init__(self, sources: Sequence[Sequence[Mailbox]], *, fresh: bool, patient: bool = False) -> None:
        self.boxes = tuple(box for boxes in sources for box in boxes)
        self._fresh = fresh
        self._patient = patient
        self._guests: deque[PendingFrame] = deque()
        self._guest_box = Mailbox("", live=False, newest=False)  # counted nowhere
        self._turns = list(map(tuple, sources))  # whose frames were taken longest ago comes first
        self._rest: deque[PendingFrame] = deque()  # taken with the one that was returned last, and returned next
        self._too_many = False  # whether frames wait that need more room than there was
        self._closed = False
        self._hungry = False
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._emptied = threading.Condition(lock)

    def put(self, *captured: tuple[Mailbox, Frame]) -> bool:
        """Add frames of one capture at once where the newest wins, else once there is room; False after ``close``."""
        with self._filled:
            while not self._closed and any(not box.newest and box.full for box, _ in captured):
                self._emptied.wait()
            if self._closed:
                return False
            replaced = [box.push(frame) for box, frame in captured]
            if self._hungry and (not self._patient or any(box.worth_taking for box, _ in captured)):
                self._filled.notify()
        del replaced  # its memory goes back outside the lock
        return True

    def ask(self, image: Pixels) -> Future[Prediction]:
        """Let a picture of no source, (H, W, 3) uint8 BGR, go through the model as a row of the next batch.

        The prediction comes in the future alone; BackendError where the engine failed, or the sources ended before.
        """
        asked: Future[Prediction] = Future()
        guest = PendingFrame(self._guest_box, Frame("", 0, image), asked=asked)
        with self._filled:
            if self._closed or self._drained():
                guest.refuse(BackendError(NOT_ANSWERED))
            else:
                self._guests.append(guest)
                self._filled.notify()
        return asked

    def lose(self, box: Mailbox) -> None:
        """Count a frame that could not be kept for want of memory as captured and dropped."""
        with self._filled:
            box.captured += 1
            box.dropped += 1

    def end(self, box: Mailbox) -> None:
        """Note that no frame will come from this source any more."""
        with self._filled:
            box.ended = True
            self._filled.notify()

    def take(self, deadline: float | None, room: float = math.inf) -> PendingFrame | None:
        """Take the next frame of the next source that has one; it counts as on its way until it is settled.

        The regions of one capture are taken together and returned one after the other, unless they are more than
        ``room``. It waits until ``deadline``, ``time.monotonic()`` seconds; None: as long as frames can come. It
        returns None where the time is over, those that wait are too many, every source has ended, or the intake was
        closed.
        """
        with self._filled:
            while True:
                entry = self._next(room)
                if entry is not None or self._too_many or self._closed or self._drained():
                    return entry
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return None
                self._hungry = True
                self._filled.wait(remaining)
                self._hungry = False

    def settle(self, entries: Iterable[PendingFrame], *, failed: bool = False) -> None:
        """Count frames whose batch is done as classified, or as dropped where it failed; unreadable ones as such."""
        with self._filled:
            for entry in entries:
                box = entry.box
                if not entry.counted:
                    box.inside -= 1
                    if entry.row < 0:
                        box.unreadable += 1
                    elif failed:
                        box.dropped += 1
                        entry.refuse(BackendError("expected an answer of the engine, found that it failed; try again"))
                    else:
                        box.classified += 1
                entry.dropped = box.dropped
            if self._hungry:
                self._filled.notify()

    def give_up(self, entries: Iterable[PendingFrame]) -> None:
        """Count frames that will go no further as dropped, readable or not."""
        with self._filled:
            for entry in entries:
                if not entry.counted:
                    entry.box.inside -= 1
                    entry.box.dropped += 1
                    entry.refuse(BackendError(NOT_ANSWERED))

    def close(self) -> None:
        """Give up what waits, accept and give out nothing more, and wake whoever waits here."""
        with self._filled:
            self._closed = True
            for box in self.boxes:
                box.clear()
            while self._guests:
                self._guests.popleft().refuse(BackendError(NOT_ANSWERED))
            while self._rest:
                box = self._rest.popleft().box
                box.inside -= 1
                box.dropped += 1
            self._filled.notify_all()
            self._emptied.notify_all()

    @property
    def over(self) -> bool:
        """Whether ``take`` will never return a frame again."""
        with self._filled:
            return self._closed or self._drained()

    def status(self, reconnects: Callable[[str], int]) -> tuple[SourceStatus, ...]:
        """Return every source's counts at one moment; ``reconnects`` tells how often a source's frames flowed again."""
        again = [reconnects(box.source) for box in self.boxes]
        with self._filled:
            return tuple(box.status(count) for box, count in zip(self.boxes, again, strict=True))

    def _drained(self) -> bool:
        return not self._rest and all(box.ended and not box.frames and not box.errors for box in self.boxes)

    def _next(self, room: float) -> PendingFrame | None:
        self._too_many = False
        if self._rest:
            return self._rest.popleft()
        while self._guests and not self._drained():  # they must not keep a run from its end
            guest = self._guests.popleft()
            if guest.asked is not None and guest.asked.set_running_or_notify_cancel():
                guest.box.inside += 1
                return guest
        for boxes in tuple(self._turns):
            for box in boxes:
                if box.errors:
                    return PendingFrame(box, box.errors.popleft(), counted=True)
            together = _captured_together(boxes)
            if not together or (self._fresh and any(box.newest and box.inside for box in boxes)):
                continue
            if len(together) > room:
                self._too_many = True
                continue
            self._turns.remove(boxes)
            self._turns.append(boxes)  # the others come first now
            self._rest.extend(map(self._take_from, together))
            return self._rest.popleft()
        return None

    def _take_from(self, box: Mailbox) -> PendingFrame:
        pending = PendingFrame(box, box.pop())
        box.inside += 1
        if not box.newest and len(box.frames) <= QUEUE - WAKE_FRAMES:
            self._emptied.notify_all()
        return pending


def _captured_together(boxes: Sequence[Mailbox]) -> list[Mailbox]:
    """Return the mailboxes of one source that have its oldest picture: all, but where a region was left out of it."""
    filled = [box for box in boxes if box.frames]
    if len(filled) < 2:  # without regions it is so for every frame, and small models take few microseconds for one
        return filled
    oldest = min(box.frames[0].index for box in filled)
    return [box for box in filled if box.frames[0].index == oldest]


def _size(frame: Frame) -> int:
    return 0 if frame.picture is None else frame.picture.nbytes
