"""Holds what the pipeline's stages share: the channels from one to the next, and how all of them are stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..sources.events import Events
from .batch import Batch
from .channel import Channel
from .mailbox import Intake
from .pace import Pace

if TYPE_CHECKING:
    from ..backends.base import Buffers

__all__ = ["Lines", "one_line"]


@dataclass(frozen=True, eq=False)
class Lines:
    """This class holds the channels between the stages and what else they share.

    Attributes:
        intake: the mailboxes, where captured frames wait.
        free: the engine's input memory that no batch uses.
        ready: preprocessed batches for the engine, up to ``together`` in one item.
        done: finished batches for the outputs, up to ``together`` in one item.
        together: the most batches that one stage hands to the next at a time.
        pace: says when to take live frames; None where every frame counts.
        events: where faults are reported.
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
        """Count the frames of these batches, which go no further, as dropped."""
        for batch in batches:
            self.intake.give_up(batch.entries)

    def stop(self) -> None:
        """End the pipeline early: what is in the engine is finished, everything before it is given up."""
        self.halt.set()
        self.intake.close()
        self.free.end()
        self.ready.end()
        if self.pace is not None:
            self.pace.close()


def one_line(error: Exception) -> str:
    """Return an error's text on one line, as an event needs it."""
    return " ".join(str(error).split())
