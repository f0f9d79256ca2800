"""Reads the sources: the pipeline's first stage, with one thread for each source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .lines import Lines, one_line
from .mailbox import Mailbox
from .meters import Stage

if TYPE_CHECKING:
    from ..frame import Frame
    from ..sources.capture import Capture

__all__ = ["Capturing"]

PAUSE = 0.05  # seconds to wait after a frame for which there was no memory
RETRY = 0.5  # seconds before a live source that ran out of memory is opened again


class Capturing:
    """Puts one capture's frames into its mailbox."""

    def __init__(self, capture: Capture, box: Mailbox, lines: Lines, stage: Stage) -> None:
        self._capture = capture
        self._box = box
        self._lines = lines
        self._stage = stage

    def run(self) -> None:
        """Read until the capture ends or the pipeline does.

        Raises:
            MemoryError: the reading of files ended for want of memory; the other frames would be missing silently.
        """
        try:
            while self._read() and not self._lines.halt.wait(RETRY):
                pass  # a live source that ran out of memory is opened again
        finally:
            self._lines.intake.end(self._box)

    def _read(self) -> bool:
        """Open the capture and read its frames to their end; return True where want of memory ended a live source."""
        frames = iter(self._capture.frames(self._lines.halt))
        short: MemoryError | None = None
        try:
            while True:
                try:
                    frame = self._next(frames)
                except MemoryError as error:
                    short = error
                    self._lines.intake.lose(self._box)
                    self._lines.events.report("memory-short", self._box.name, one_line(error) or "capturing a frame")
                    self._lines.halt.wait(PAUSE)
                    continue
                if frame is None:
                    break
                if not self._lines.intake.put(self._box, frame):
                    return False
                short = frame = None  # the wait for the next one must not keep this one in memory
        finally:
            close = getattr(frames, "close", None)
            if close is not None:
                close()
        if short is not None and not self._capture.live:
            raise short
        return short is not None

    def _next(self, frames: Iterator[Frame]) -> Frame | None:
        self._stage.enter()
        try:
            return next(frames, None)
        finally:
            self._stage.leave()
