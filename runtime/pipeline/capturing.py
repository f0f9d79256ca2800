"""Contains the pipeline's first stage, which runs on one thread for each capture: frames ──► regions ──► mailboxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .handover import Links, one_line
from .mailbox import Mailbox

if TYPE_CHECKING:
    from ..frame import Frame
    from ..sources.capture import Capture
    from ..sources.regions import RegionCutter

SHORTAGE_PAUSE = 0.05  # seconds to wait after a frame for which there was no memory
REOPEN_PAUSE = 0.5  # seconds before a live source that ran out of memory is opened again


class Capturing:
    """Puts one capture's frames into its mailbox or, cut into regions, into one mailbox for each."""

    def __init__(self, links: Links, capture: Capture, boxes: Sequence[Mailbox], cutter: RegionCutter) -> None:
        self._links = links
        self._capture = capture
        self._boxes = tuple(boxes)
        self._cutter = cutter

    def run(self) -> None:
        """Read until the capture or the pipeline ends.

        Raises:
            MemoryError: the reading of files ended for want of memory; the other frames would be missing silently.
        """
        try:
            while self._read() and not self._links.halt.wait(REOPEN_PAUSE):
                pass  # a live source that ran out of memory is opened again
        finally:
            for box in self._boxes:
                self._links.intake.end(box)

    def _read(self) -> bool:
        """Open the capture and read its frames to their end; return True where want of memory ended a live source."""
        frames = iter(self._capture.frames(self._links.halt))
        shortage: MemoryError | None = None
        try:
            while True:
                try:
                    frame = next(frames, None)
                except MemoryError as error:
                    shortage = error
                    self._lose(error)
                    continue
                if frame is None:
                    break
                if not self._put(frame):
                    return False
                shortage = frame = None  # the wait for the next one must not keep this one in memory
        finally:
            close = getattr(frames, "close", None)
            if close is not None:
                close()
        if shortage is not None and not self._capture.live:
            raise shortage
        return shortage is not None

    def _put(self, frame: Frame) -> bool:
        parts = zip(self._boxes, self._cutter.cut(frame), strict=True)
        captured = [(box, part) for box, part in parts if part is not None]
        return self._links.intake.put(*captured)

    def _lose(self, error: MemoryError) -> None:
        for box in self._boxes:
            self._links.intake.lose(box)
        self._links.events.report("memory-short", self._capture.name, one_line(error) or "capturing a frame")
        self._links.halt.wait(SHORTAGE_PAUSE)
