"""Turns frames into tensors and gathers them into batches: the pipeline's second stage."""

from __future__ import annotations

import time
from dataclasses import replace

from ..errors import InputError
from ..preprocess import Preprocessor
from .batch import Batch, Entry
from .lines import Lines, one_line
from .memory import OUT_OF_MEMORY, is_shortage
from .meters import Stage

__all__ = ["Preparation"]

ERRORS = 4  # times the batch's rows: the most frames of a batch, unreadable ones included
TOGETHER_BYTES = 2**22  # 4 MiB of decoded images go on together: larger ones take longer than waking a thread
BATCH_BYTES = 2**28  # 256 MiB of decoded images: photographs of 100 megapixels go through almost one by one


class Preparation:
    """Takes frames, preprocesses them straight into the engine's input memory, and hands over batches.

    Args:
        lines: what the stages share.
        stage: where this stage notes its work.
        preprocessor: a preprocessor that no other thread uses.
        capacity: the most rows of a batch.
        max_wait: seconds for which a batch waits for more frames after its first; None: until it is full.
    """

    def __init__(
        self, lines: Lines, stage: Stage, preprocessor: Preprocessor, capacity: int, max_wait: float | None
    ) -> None:
        self._lines = lines
        self._stage = stage
        self._preprocessor = preprocessor
        self._capacity = capacity
        self._max_wait = max_wait

    def run(self) -> None:
        """Make batches until no more frames will come."""
        try:
            while batches := self._gather():
                if not self._hand_over(batches):
                    self._lines.give_up(batches)
                    return
                del batches  # the wait for the next ones must not keep their images in memory
        finally:
            self._lines.ready.end()

    def _gather(self) -> list[Batch]:
        """Return the next batch and those behind it that need no waiting; an empty list at the end."""
        first = self._next()
        if first is None:
            return []
        batches, size = [first], first.size
        try:
            while len(batches) < self._lines.together and size < TOGETHER_BYTES:
                batch = self._another()
                if batch is None:
                    break
                batches.append(batch)
                size += batch.size
        except BaseException:
            self._lines.give_up(batches)
            raise
        return batches

    def _another(self) -> Batch | None:
        """Return one more batch of frames that are there already; None where there are none, or no input memory."""
        buffers = self._lines.free.get(0)
        if buffers is None:
            return None
        batch = Batch(buffers)
        self._fill(batch, deadline=0.0)
        if not batch.entries:
            self._lines.free.put(buffers)
            return None
        return batch

    def _next(self) -> Batch | None:
        buffers = self._lines.free.get()
        if buffers is None:
            return None
        batch = Batch(buffers)
        while not batch.entries:
            if self._lines.pace is not None:
                self._lines.pace.wait()
            self._fill(batch)
            if not batch.entries and self._lines.intake.over:
                return None
        return batch

    def _hand_over(self, batches: list[Batch]) -> bool:
        if self._lines.halt.is_set():
            return False
        if self._lines.pace is not None:
            for batch in batches:
                self._lines.pace.hand_over(sum(entry.preprocess_ms for entry in batch.entries) / 1000)
        return self._lines.ready.put(batches)

    def _fill(self, batch: Batch, deadline: float | None = None) -> None:
        while batch.rows < self._capacity and len(batch.entries) < ERRORS * self._capacity and batch.size < BATCH_BYTES:
            entry = self._lines.intake.take(deadline)
            if entry is None:
                return
            if self._preprocess(entry, batch):
                batch.add(entry)
            if deadline is None and self._max_wait is not None:
                deadline = time.monotonic() + self._max_wait

    def _preprocess(self, entry: Entry, batch: Batch) -> bool:
        """Write a frame's tensors into the batch's next row; return False where memory did not suffice."""
        image = entry.frame.image
        if image is None:
            return True
        self._stage.enter()
        begun = self._stage.since
        try:
            self._preprocessor.fill(image, batch.buffers.tensors, batch.rows)
        except InputError as error:
            entry.frame = replace(entry.frame, image=None, error=str(error))
        except OUT_OF_MEMORY as error:
            if not is_shortage(error):
                raise
            self._lines.intake.give_up((entry,))
            self._lines.events.report("memory-short", entry.box.name, one_line(error) or "preprocessing a frame")
            return False
        finally:
            self._stage.leave()
        entry.preprocess_ms = (time.monotonic() - begun) * 1000
        return True
