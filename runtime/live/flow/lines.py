"""What the pipeline's stages share: the ways from one to the next, and how all of them are stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..events import Events
from .batch import Batch
from .channel import Channel
from .mailbox import Intake
from .pace import Pace

if TYPE_CHECKING:
    from ...backends.base import Buffers

__all__ = ["Lines", "one_line"]


@dataclass(frozen=True, eq=False)
class Lines:
    """What the stages share.

    Attributes:
        intake: frames that wait.
        free: input memory that nobody uses.
        ready: batches for the engine, some at a time.
        done: batches for the outputs, likewise.
        together: the most batches that are handed over at a time.
        pace: when to take live frames; None where every frame counts.
        events: whom to tell about faults.
        halt: set when the pipeline is to end before its sources do.
    """

    intake: Intake
    free: Channel[Buffers]
    ready: Channel[list[Batch]]
    done: Channel[list[Batch]]
    together: int
    pace: Pace | None
    events: Events
    halt: threading.Event

    def give_up(self, batches: Iterable[Batch]) -> None:
        """Count the frames of batches that go no further as dropped."""
        for batch in batches:
            self.intake.give_up(batch.entries)

    def stop(self) -> None:
        """End early: what is in the engine is finished, everything before it is given up."""
        self.halt.set()
        self.intake.close()
        self.free.end()
        self.ready.end()
        if self.pace is not None:
            self.pace.close()


def one_line(error: Exception) -> str:
    """An error's text for an event."""
    return " ".join(str(error).split())
