"""Holds the frames that are on their way through the model together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..backends.base import Buffers
    from ..frame import Frame, Outputs
    from .mailbox import Mailbox

__all__ = ["Batch", "Entry"]


@dataclass(eq=False, slots=True)
class Entry:
    """This class holds one frame that was taken from its mailbox.

    Attributes:
        box: the mailbox that the frame came from.
        frame: what was captured, or what could not be read.
        row: the frame's row in the batch's tensors; -1 for a frame that could not be read.
        counted: whether the mailbox has counted the frame as unreadable already.
        preprocess_ms: time from the decoded frame to its tensors, milliseconds.
        dropped: how many frames of the source were given up by the time the batch was done.
    """

    box: Mailbox
    frame: Frame
    row: int = -1
    counted: bool = False
    preprocess_ms: float = 0.0
    dropped: int = 0


@dataclass(eq=False, slots=True)
class Batch:
    """This class holds entries in the order in which they were taken, and the input memory that holds their rows.

    Attributes:
        buffers: the input memory, lent by the backend until the batch is done.
        entries: readable and unreadable frames.
        rows: how many of the entries are readable.
        size: bytes of all their images.
        outputs: what the model said; None before that, and where the engine failed.
        inference_ms: the whole batch's time in the engine, milliseconds.
        finished: when the batch was done, ``time.monotonic()`` seconds.
    """

    buffers: Buffers
    entries: list[Entry] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    outputs: Outputs | None = None
    inference_ms: float = 0.0
    finished: float = 0.0

    def add(self, entry: Entry) -> None:
        """Append a frame whose tensors are in row ``rows``, or one that could not be read."""
        if entry.frame.image is not None:
            entry.row = self.rows
            self.rows += 1
            self.size += entry.frame.image.nbytes
        self.entries.append(entry)
