"""Draws one source's place in the window: its last picture with the top labels, or why there is none."""

from __future__ import annotations

import time

from ..outputs.sink import Result
from ..sources.events import Event
from .draw import BACKGROUND, DIM, TEXT, WARNING, Bars, Box, dimmed, fill, fit, notice, row
from .text import Pixels

__all__ = ["Tile"]

SILENCE = 2.0  # seconds without a result before a picture is no longer shown as live
SLOWNESS = 4.0  # usual intervals without a result, where these are longer: an engine may take seconds for a frame
LARGEST_PANEL = 0.35  # of the height is the most that labels get: the picture needs the rest


class Tile:
    """This class holds what one source showed last and when, and draws it.

    Attributes:
        name: the source's name.
        seen: when the source's last result came, ``time.monotonic()`` seconds.
    """

    def __init__(self, name: str, bars: Bars, top_k: int) -> None:
        self.name = name
        self.seen = time.monotonic()
        self._bars = bars
        self._top_k = top_k
        self._result: Result | None = None
        self._shown: Result | None = None  # the last one with a picture
        self._trouble: Event | None = None
        self._interval = 0.0

    def take(self, result: Result) -> None:
        """Show this result from now on; a source that gives pictures is no longer in trouble."""
        now = time.monotonic()
        if self._result is not None:  # the wait for the first one says nothing
            self._interval += 0.2 * (now - self.seen - self._interval)
        self.seen = now
        self._result = result
        if result.frame.image is not None:
            self._shown = result
            self._trouble = None

    def trouble(self, event: Event) -> None:
        """Show that something is wrong with this source, until its next picture."""
        self._trouble = event

    def silence(self) -> float | None:
        """Return for how many seconds nothing could be shown as live; None while something can."""
        quiet = time.monotonic() - self.seen
        return quiet if self._trouble or quiet > max(SILENCE, SLOWNESS * self._interval) else None

    def draw(self, pixels: Pixels, size: int) -> None:
        """Draw over a picture, with text ``size`` pixels high: a line with the source, its image, the top labels."""
        fill(pixels, BACKGROUND)
        height, width = pixels.shape[:2]
        head, step = round(size * 2), round(size * 1.7)
        rows = min(self._top_k, max(int(height * LARGEST_PANEL - size) // step, 1))
        panel = rows * step + size
        view = Box(0, head, width, max(height - head - panel, 1)).of(pixels)
        silence = self.silence()
        if self._shown is not None and self._shown.frame.image is not None:
            fit(self._shown.frame.image, view)
        row(pixels[:head], self.name, self._right(silence), size, (TEXT, DIM if silence is None else WARNING))
        below = pixels[height - panel + size // 2 :]
        if silence is not None:
            self._draw_silence(view, below[:step], silence, size)
        elif self._result is not None and self._result.prediction is not None:
            self._bars.draw(below, self._result.prediction.top(rows), size, step)
        elif self._result is not None:
            dimmed(view)
            notice(view, [f"frame {self._result.frame.index} unreadable", self._result.frame.error or ""], size)
        else:
            notice(view, ["waiting for the first frame"], size, TEXT)

    def _right(self, silence: float | None) -> str:
        result = self._shown
        if silence is not None:
            return "not live"
        if result is None:
            return ""
        frame = f"frame {result.frame.index}" if result.frame.video else ""
        age = f"{result.age_ms:.0f} ms old" if result.frame.captured else ""
        dropped = f"{result.dropped} dropped" if result.dropped else ""
        smoothed = "smoothed" if result.smoothed_s else ""
        return "  ".join(part for part in (smoothed, frame, dropped, age) if part)

    def _draw_silence(self, view: Pixels, below: Pixels, silence: float, size: int) -> None:
        dimmed(view)
        what = self._trouble.kind if self._trouble else "no frames"
        lines = [f"{what} for {silence:.0f} s" if silence >= 1 else what]
        if self._trouble is not None and self._trouble.detail:
            lines.append(self._trouble.detail)
        notice(view, lines, round(size * 1.2))
        shown = self._shown
        if shown is not None and shown.frame.timestamp:
            clock = time.strftime("%H:%M:%S", time.localtime(shown.frame.timestamp))
            row(below, f"the picture is from {clock}", "", size, (DIM, DIM))
