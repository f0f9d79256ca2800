"""Contains the two stages around the engine, each of which runs on a thread of its own.

Preparation: frames from the mailboxes ──► tensors in the engine's memory ──► batches
Inference: batches ──► the engine ──► batches with outputs
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import BackendError, ImageError, InputError
from ..ink import photographed_frame
from .handover import MEMORY_ERRORS, Batch, Links, is_shortage, one_line
from .pending_frame import PendingFrame

if TYPE_CHECKING:
    from ..backends.base import Ticket
    from .models import Models

FRAMES_A_ROW = 4  # times the batch's rows: the most frames of a batch, unreadable ones included
GROUP_BYTES = 2**22  # 4 MiB of images go on together: larger ones take longer than waking a thread
BATCH_BYTES = 2**28  # 256 MiB of decoded images: photographs of 100 megapixels go through almost one by one
FAST_MS = 2.0  # milliseconds: a batch that took longer is handed on at once, so that no result waits longer for others
MAX_FAILURES = 3  # batches in a row that may fail before the engine counts as broken


class Preparation:
    """Takes frames, preprocesses them straight into the engine's input memory, and hands over batches.

    No other thread uses the models' preprocessors. A batch has up to ``capacity`` rows, and waits ``max_wait`` seconds
    for more frames after its first; None: until it is full. With ``digit``, tensors are of what ``photographed_frame``
    finds.
    """

    def __init__(
        self, links: Links, models: Models, capacity: int, max_wait: float | None, *, digit: bool = False
    ) -> None:
        self._links = links
        self._clock = links.clocks["preprocess"]
        self._models = models
        self._capacity = capacity
        self._max_wait = max_wait
        self._digit = digit

    def run(self) -> None:
        """Make batches until no more frames will come."""
        try:
            while batches := self._gather():
                if not self._hand_over(batches):
                    self._links.give_up(batches)
                    return
                del batches  # the wait for the next ones must not keep their images in memory
        finally:
            self._links.ready.end()

    def _gather(self) -> list[Batch]:
        """Return the next batch and those behind it that need no waiting; an empty list at the end."""
        batches: list[Batch] = []
        try:
            while (batch := self._make_batch(wait=not batches)) is not None:
                batches.append(batch)
                if len(batches) >= self._links.together or sum(item.size for item in batches) >= GROUP_BYTES:
                    break
        except BaseException:
            self._links.give_up(batches)
            raise
        return batches

    def _make_batch(self, *, wait: bool) -> Batch | None:
        """Return a batch of the next frames; None where none will come or, unless it may wait, none is there now."""
        slot = self._links.free.get(None if wait else 0)
        if slot is None:
            return None
        batch = Batch(self._models.renewed(slot))
        while not batch.frames:
            if wait:
                self._links.pace.wait()
            self._fill(batch, None if wait else 0.0)
            if not batch.frames and (not wait or self._links.intake.over):
                self._links.free.put(batch.slot)
                return None
        return batch

    def _hand_over(self, batches: list[Batch]) -> bool:
        if self._links.halt.is_set():
            return False
        for batch in batches:
            self._links.pace.hand_over(sum(pending.preprocess_ms for pending in batch.frames) / 1000)
        return self._links.ready.put(batches)

    def _fill(self, batch: Batch, deadline: float | None) -> None:
        most = FRAMES_A_ROW * self._capacity
        while batch.rows < self._capacity and len(batch.frames) < most and batch.size < BATCH_BYTES:
            pending = self._links.intake.take(deadline, self._capacity - batch.rows if batch.rows else math.inf)
            if pending is None:
                return
            if self._preprocess(pending, batch):
                batch.add(pending)
            if deadline is None and self._max_wait is not None:
                deadline = time.monotonic() + self._max_wait

    def _preprocess(self, pending: PendingFrame, batch: Batch) -> bool:
        """Write a frame's tensors into the batch's next row; return False where memory did not suffice."""
        image = pending.frame.image
        if image is None:
            return True
        try:
            with self._clock as begun:
                if self._digit:
                    image = photographed_frame(image)
                    pending.frame = replace(pending.frame, seen=image)
                batch.slot.model.preprocessor.fill(image, batch.slot.buffers.tensors, batch.rows)
        except ImageError as error:  # of a page without ink, which can still be shown
            pending.frame = replace(pending.frame, error=str(error))
        except InputError as error:
            pending.frame = replace(pending.frame, image=None, error=str(error))
        except MEMORY_ERRORS as error:
            if not is_shortage(error):
                raise
            self._links.intake.give_up((pending,))
            self._links.events.report("memory-short", pending.box.source, one_line(error) or "preprocessing a frame")
            return False
        else:
            pending.preprocess_ms = (time.monotonic() - begun) * 1000
        return True


class Inference:
    """Runs batches; up to ``depth`` are submitted before the first is collected. Only its thread uses the engines."""

    def __init__(self, links: Links, models: Models, depth: int) -> None:
        self._links = links
        self._clock = links.clocks["infer"]
        self._models = models
        self._depth = depth
        self._fetched: deque[Batch] = deque()
        self._submitted: deque[tuple[Batch, Ticket | BackendError | None, float]] = deque()
        self._finished: list[Batch] = []
        self._failures = 0
        self._free_since = 0.0

    def run(self) -> None:
        """Run batches until no more will come; raise BackendError where three in a row failed."""
        try:
            while True:
                batch = self._next()
                if batch is not None:
                    self._submit(batch)
                elif not self._submitted:
                    return
                if self._submitted and (batch is None or len(self._submitted) >= self._depth):
                    self._collect()
                batch = None  # the wait for the next one must not keep this one's images in memory
        finally:
            self._abandon()

    def remains(self) -> list[Batch]:
        """Take out and return the batches that were fetched but not given to the engine; any thread may call it."""
        left: list[Batch] = []
        with contextlib.suppress(IndexError):
            while True:
                left.append(self._fetched.popleft())
        return left

    def _next(self) -> Batch | None:
        """Return the next batch; None where none is there yet and others are in the engine, or none will ever come."""
        if not self._fetched:
            self._fetched.extend(self._links.ready.get(0) or ())
        if not self._fetched:
            self._pass_on()  # no finished batch may stay here while this thread waits
            if not self._submitted:
                self._fetched.extend(self._links.ready.get() or ())
        with contextlib.suppress(IndexError):  # at the end another thread may take them out, by remains
            return self._fetched.popleft()
        return None

    def _submit(self, batch: Batch) -> None:
        if self._links.halt.is_set():
            self._links.intake.give_up(batch.frames)
            return
        self._links.pace.start()
        ticket: Ticket | BackendError | None
        with self._clock as begun:
            try:
                ticket = batch.slot.model.backend.submit(batch.slot.buffers, batch.rows) if batch.rows else None
            except BackendError as error:  # reported by _collect, after the batches ahead of this one
                ticket = error
        self._submitted.append((batch, ticket, begun))

    def _collect(self) -> None:
        batch, ticket, begun = self._submitted.popleft()
        try:
            if isinstance(ticket, BackendError):
                raise ticket
            if ticket is not None:
                with self._clock:
                    batch.outputs = batch.slot.model.backend.collect(ticket)
                self._failures = 0
        except BackendError as error:
            if not self._rescue(batch, error):
                self._fail(batch, error)
                return
        now = time.monotonic()
        # a batch that was submitted behind another begins when that one is done
        batch.inference_ms = (now - max(begun, self._free_since)) * 1000
        batch.finished = self._free_since = now
        if batch.outputs is not None:
            batch.model.note(batch.rows, batch.inference_ms)
        self._links.intake.settle(batch.frames)
        self._finish(batch)

    def _rescue(self, batch: Batch, error: BackendError) -> bool:
        """Let the model before compute a batch with which the newer one failed; return False where there is none."""
        batch.model.failures += 1
        with self._clock:
            rescued = self._models.rescue(batch.slot, batch.rows)
        if rescued is None:
            return False
        batch.model, batch.outputs = rescued
        self._links.events.report("engine-failed", detail=f"the bundle before goes on: {one_line(error)}")
        return True

    def _fail(self, batch: Batch, error: BackendError) -> None:
        """Give up the frames of a batch that failed; raise the error where it is the third such batch in a row."""
        self._failures += 1
        self._links.events.report("engine-failed", detail=one_line(error))
        batch.finished = self._free_since = time.monotonic()
        self._links.intake.settle(batch.frames, failed=True)
        batch.frames = [pending for pending in batch.frames if pending.row < 0]
        batch.rows = 0
        self._finish(batch)
        if self._failures == MAX_FAILURES:
            raise error

    def _finish(self, batch: Batch) -> None:
        self._finished.append(batch)
        full = len(self._finished) >= self._links.together or sum(item.size for item in self._finished) >= GROUP_BYTES
        if full or batch.inference_ms >= FAST_MS:
            self._pass_on()

    def _pass_on(self) -> None:
        """Hand finished batches to the outputs; only then give their memory back and count the engine as free."""
        batches, self._finished = self._finished, []
        deliverable = [batch for batch in batches if batch.frames]
        if deliverable:
            self._links.done.put(deliverable)
        for batch in batches:
            self._links.free.put(batch.slot)
            self._links.pace.finish(batch.inference_ms / 1000 if batch.rows else None)

    def _abandon(self) -> None:
        """Count what will not be finished as given up, hand on what is finished, and end both channels."""
        self._links.ready.end()
        self._links.give_up(batch for batch, _, _ in self._submitted)
        self._links.give_up(self.remains())
        self._pass_on()
        self._links.done.end()
