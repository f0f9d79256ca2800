"""Runs batches through the engine: the pipeline's third stage."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

from ..errors import BackendError
from .batch import Batch
from .lines import Lines, one_line
from .meters import Stage

if TYPE_CHECKING:
    from ..backends.base import Backend, Ticket

__all__ = ["Inference"]

FAST = 2.0  # milliseconds: a batch that took longer is handed on at once, so that no result waits longer for others
HELD = 2**22  # 4 MiB: images of finished batches that wait to be handed on together
FAILURES = 3  # batches in a row that may fail before the engine counts as broken


class Inference:
    """Runs batches, with up to ``depth`` of them in the engine at once.

    Args:
        lines: what the stages share.
        stage: where this stage notes its work.
        backend: the engine, used by this thread alone.
        depth: batches submitted before the first is collected.
    """

    def __init__(self, lines: Lines, stage: Stage, backend: Backend, depth: int) -> None:
        self._lines = lines
        self._stage = stage
        self._backend = backend
        self._depth = depth
        self._submitted: deque[tuple[Batch, Ticket | BackendError | None, float]] = deque()
        self._waiting: deque[Batch] = deque()
        self._finished: list[Batch] = []
        self._failures = 0
        self._free_since = 0.0

    def run(self) -> None:
        """Run batches until no more will come.

        Raises:
            BackendError: three batches in a row failed.
        """
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

    def _next(self) -> Batch | None:
        """Return the next batch; None where none is there yet and others are in the engine, or none will ever come."""
        if not self._waiting:
            self._waiting.extend(self._lines.ready.get(0) or ())
        if not self._waiting:
            self._pass_on()  # no finished batch may stay here while this thread waits
            if not self._submitted:
                self._waiting.extend(self._lines.ready.get() or ())
        with contextlib.suppress(IndexError):  # at the end another thread may take them out, by remains
            return self._waiting.popleft()
        return None

    def remains(self) -> list[Batch]:
        """Take out and return the batches that were fetched but not given to the engine; any thread may call it."""
        left: list[Batch] = []
        with contextlib.suppress(IndexError):
            while True:
                left.append(self._waiting.popleft())
        return left

    def _submit(self, batch: Batch) -> None:
        if self._lines.halt.is_set():
            self._lines.intake.give_up(batch.entries)
            return
        if self._lines.pace is not None:
            self._lines.pace.start()
        self._stage.enter()
        begun = self._stage.since
        ticket: Ticket | BackendError | None
        try:
            ticket = self._backend.submit(batch.buffers, batch.rows) if batch.rows else None
        except BackendError as error:  # reported by _collect, after the batches ahead of this one
            ticket = error
        finally:
            self._stage.leave()
        self._submitted.append((batch, ticket, begun))

    def _collect(self) -> None:
        batch, ticket, begun = self._submitted.popleft()
        if isinstance(ticket, BackendError):
            self._fail(batch, ticket)
            return
        if ticket is not None:
            self._stage.enter()
            try:
                batch.outputs = self._backend.collect(ticket)
            except BackendError as error:
                self._fail(batch, error)
                return
            finally:
                self._stage.leave()
            self._failures = 0
        now = time.monotonic()
        # a batch that was submitted behind another begins when that one is done
        batch.inference_ms = (now - max(begun, self._free_since)) * 1000
        batch.finished = self._free_since = now
        self._lines.intake.settle(batch.entries)
        self._finish(batch)

    def _fail(self, batch: Batch, error: BackendError) -> None:
        """Give up the frames of a batch that failed; raise the error where it is the third such batch in a row."""
        self._failures += 1
        self._lines.events.report("engine-failed", detail=one_line(error))
        batch.finished = self._free_since = time.monotonic()
        self._lines.intake.settle(batch.entries, failed=True)
        batch.entries = [entry for entry in batch.entries if entry.row < 0]
        batch.rows = 0
        self._finish(batch)
        if self._failures == FAILURES:
            raise error

    def _finish(self, batch: Batch) -> None:
        self._finished.append(batch)
        fast = batch.inference_ms < FAST
        if not fast or len(self._finished) >= self._lines.together or sum(item.size for item in self._finished) >= HELD:
            self._pass_on()

    def _pass_on(self) -> None:
        """Hand finished batches to the outputs; only then give their memory back and count the engine as free."""
        batches, self._finished = self._finished, []
        told = [batch for batch in batches if batch.entries]
        if told:
            self._lines.done.put(told)
        for batch in batches:
            self._lines.free.put(batch.buffers)
            if self._lines.pace is not None:
                self._lines.pace.finish(batch.inference_ms / 1000 if batch.rows else None)

    def _abandon(self) -> None:
        """Count what will not be finished as given up, hand on what is finished, and end both channels."""
        self._lines.ready.end()
        self._lines.give_up(batch for batch, _, _ in self._submitted)
        self._lines.give_up(self.remains())
        self._pass_on()
        self._lines.done.end()
