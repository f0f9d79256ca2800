"""Describes a frame on its way from its mailbox through the model: a source's, or one that somebody asks about."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import HybridEdgeError
from ..frame import Frame

if TYPE_CHECKING:
    from ..classifier import Prediction
    from .mailbox import Mailbox


@dataclass(eq=False, slots=True)
class PendingFrame:
    """A frame that was taken from its mailbox.

    Attributes:
        frame: what was captured, or what could not be read.
        row: the frame's row in the batch's tensors; -1 for a frame that could not be read.
        counted: whether the mailbox has counted the frame as unreadable already.
        preprocess_ms: time from the decoded frame to its tensors, milliseconds.
        dropped: how many frames of the source were given up by the time the batch was done.
        asked: where the prediction goes that somebody asked for, in place of the outputs; None for a source's frame.
    """

    box: Mailbox
    frame: Frame
    row: int = -1
    counted: bool = False
    preprocess_ms: float = 0.0
    dropped: int = 0
    asked: Future[Prediction] | None = None

    def refuse(self, reason: HybridEdgeError) -> None:
        """Tell whoever asked about this frame, if anybody did, why there will be no prediction."""
        if self.asked is not None and (self.asked.running() or self.asked.set_running_or_notify_cancel()):
            self.asked.set_exception(reason)
