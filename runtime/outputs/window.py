"""Shows the sources side by side in a window, each with its picture, its top labels and what is wrong with it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence

from ..canvas.pictures import BACKGROUND, DIM, TEXT, WARNING, Bars, Box, blank, dim, fill, fit, inset, notice, text_row
from ..frame import Frame, Pixels, is_of
from ..opencv import cv2
from ..sources.events import Event
from .display import QUIT_KEYS, close_window, is_visible, pressed_key, require_display
from .sink import Result, Sink, Status

TITLE = "hybrid-edge"  # by which OpenCV knows the window

REDRAW = 1 / 25  # seconds between two drawings; more of them would take time from the model
DRAW_PAUSE = 4  # the pause after a drawing is at least so many times as long as it: sixteen large pictures take long
IDLE_REDRAW = 0.5  # seconds between two drawings where nothing came: they show for how long it has been silent
SINGLE_SIZE = (880, 720)  # pixels; fits the 1280x800 screens that devices have
MAX_SIZE = (1280, 760)
MIN_TILE_SIZE = (300, 240)
MAX_TILES = 16
TILE_GAP = 2  # pixels
BORDER = (8, 7, 6)
FILES = ""  # the name of the tile that all files share where they have no regions
KEY_WAIT = 1  # milliseconds that OpenCV handles the window's events for
HEADLESS_ADVICE = "leave the window out with --headless"
TROUBLE = frozenset({"lost", "stalled"})

MAX_SILENCE = 2.0  # seconds without a result before a picture is no longer shown as live
MAX_INTERVALS = 4.0  # usual intervals without a result, where these are longer: an engine may take seconds for a frame
MAX_PANEL = 0.35  # of the height is the most that labels get: the picture needs the rest


class Window(Sink):
    """This sink shows the newest result of each source; Q, Esc or closing the window asks to stop.

    Files share one tile, each camera or stream has its own, and so has each region. A picture whose source gave nothing
    for two seconds, or was reported as lost or stalled, is dimmed, says so, and has no label. ``picture`` is what was
    drawn last, (H, W, 3) uint8, BGR.
    """

    def __init__(self, labels: Sequence[str], top_k: int = 5, *, live: Collection[str] = ()) -> None:
        """Open the window, or raise UsageError where none can be opened here.

        Fewer than ``top_k`` labels are shown where a source's tile is too small. ``live`` has the names of the cameras
        and streams, as their frames carry them, in the order of their tiles.
        """
        require_display(HEADLESS_ADVICE)
        self._top_k = top_k
        self._bars = Bars(labels)
        self._tiles = {name: Tile(name, self._bars, top_k) for name in live or [FILES]}
        self._live = frozenset(live)
        self._status: Status | None = None
        self._changed = True
        self._drawn_at = 0.0
        self._redraw_pause = REDRAW
        self._stopped = False
        self.picture = blank(*SINGLE_SIZE)
        # no tool bar; the picture keeps its proportions when the window is resized
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(TITLE, *SINGLE_SIZE)
        self._draw()

    def write(self, result: Result) -> None:
        """Show this result from the next ``poll`` on."""
        frame = result.frame
        tile = self._tile(frame)
        tile.name = frame.name
        tile.take(result)
        self._changed = True

    def event(self, event: Event) -> None:
        """Mark a source that was lost or stalled."""
        for name in self._live:
            if event.kind in TROUBLE and is_of(name, event.source):
                self._tiles[name].trouble(event)
                self._changed = True

    def status(self, status: Status) -> None:
        """Show rate and ages in the last line."""
        self._status = status
        self._changed = True

    def poll(self) -> bool:
        """Draw what is new and handle keys; return whether the user asked to stop."""
        if time.monotonic() >= self._drawn_at + (self._redraw_pause if self._changed else IDLE_REDRAW):
            self._draw()
        if pressed_key(KEY_WAIT) in QUIT_KEYS or not is_visible(TITLE):
            self._stopped = True
        return self._stopped

    def close(self) -> None:
        """Close the window, unless the user has."""
        close_window(TITLE)

    def _tile(self, frame: Frame) -> Tile:
        key = frame.name if frame.name in self._live else frame.region or FILES
        if key not in self._tiles:
            if frame.region:
                self._tiles.pop(FILES, None)  # it waited for whole pictures, which do not come
            self._tiles[key] = Tile(frame.name, self._bars, self._top_k)
        return self._tiles[key]

    def _draw(self) -> None:
        start = time.monotonic()
        tiles = list(self._tiles.values())[:MAX_TILES]
        columns, rows, (width, height) = _grid(len(tiles))
        size = max(min(height // 36, 18), 12)
        foot = 2 * size
        if self.picture.shape != (rows * height + foot, columns * width, 3):
            self.picture = blank(columns * width, rows * height + foot)
            cv2.resizeWindow(TITLE, self.picture.shape[1], self.picture.shape[0])
        fill(self.picture, BORDER)
        gap = TILE_GAP if len(tiles) > 1 else 0
        for number, tile in enumerate(tiles):
            box = Box(number % columns * width, number // columns * height, width - gap, height - gap)
            tile.draw(box.view(self.picture), size)
        self._draw_foot(self.picture[-foot:], size, len(self._tiles) - len(tiles))
        cv2.imshow(TITLE, self.picture)
        self._drawn_at, self._changed = time.monotonic(), False
        self._redraw_pause = max(REDRAW, DRAW_PAUSE * (self._drawn_at - start))

    def _draw_foot(self, pixels: Pixels, size: int, hidden: int) -> None:
        fill(pixels, BACKGROUND)
        status = self._status
        left = right = ""
        if status is not None:
            left = f"{status.fps:.1f} results/s   age {status.age_p50_ms:.0f} ms, 99 % under {status.age_p99_ms:.0f} ms"
            right = f"inference {status.inference_ms:.1f} ms"
        if hidden:
            right = f"{hidden} more sources not shown   {right}"
        text_row(pixels, left, right, size, (TEXT, DIM))


class Tile:
    """What one source showed last and when (``seen``, ``time.monotonic()`` seconds), and how it is drawn."""

    def __init__(self, name: str, bars: Bars, top_k: int) -> None:
        self.name = name
        self.seen = time.monotonic()
        self._bars = bars
        self._top_k = top_k
        self._result: Result | None = None
        self._pictured: Result | None = None  # the last one with a picture
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
            self._pictured = result
            self._trouble = None

    def trouble(self, event: Event) -> None:
        """Show that something is wrong with this source, until its next picture."""
        self._trouble = event

    def silence(self) -> float | None:
        """Return for how many seconds nothing could be shown as live; None while something can."""
        quiet = time.monotonic() - self.seen
        return quiet if self._trouble or quiet > max(MAX_SILENCE, MAX_INTERVALS * self._interval) else None

    def draw(self, pixels: Pixels, size: int) -> None:
        """Draw over a picture, with text ``size`` pixels high: a line with the source, its image, the top labels."""
        fill(pixels, BACKGROUND)
        height, width = pixels.shape[:2]
        head, step = round(size * 2), round(size * 1.7)
        rows = min(self._top_k, max(int(height * MAX_PANEL - size) // step, 1))
        panel = rows * step + size
        view = Box(0, head, width, max(height - head - panel, 1)).view(pixels)
        silence = self.silence()
        if self._pictured is not None and self._pictured.frame.image is not None:
            fit(self._pictured.frame.image, view)
            if self._pictured.frame.seen is not None:
                inset(self._pictured.frame.seen, view)
        text_row(pixels[:head], self.name, self._right(silence), size, (TEXT, DIM if silence is None else WARNING))
        below = pixels[height - panel + size // 2 :]
        if silence is not None:
            self._draw_silence(view, below[:step], silence, size)
        elif self._result is not None and self._result.prediction is not None:
            self._bars.draw(below, self._result.ranked(rows), size, step)
        elif self._result is not None:
            dim(view)
            unread = [f"frame {self._result.frame.index} unreadable"] if self._result.frame.image is None else []
            notice(view, [*unread, self._result.frame.error or ""], size)
        else:
            notice(view, ["waiting for the first frame"], size, TEXT)

    def _right(self, silence: float | None) -> str:
        result = self._pictured
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
        dim(view)
        what = self._trouble.kind if self._trouble else "no frames"
        lines = [f"{what} for {silence:.0f} s" if silence >= 1 else what]
        if self._trouble is not None and self._trouble.detail:
            lines.append(self._trouble.detail)
        notice(view, lines, round(size * 1.2))
        pictured = self._pictured
        if pictured is not None and pictured.frame.timestamp:
            clock = time.strftime("%H:%M:%S", time.localtime(pictured.frame.timestamp))
            text_row(below, f"the picture is from {clock}", "", size, (DIM, DIM))


def _grid(count: int) -> tuple[int, int, tuple[int, int]]:
    """Return columns, rows and the (width, height) of one tile, pixels: as many columns as rows, or one more."""
    if count <= 1:
        return 1, 1, SINGLE_SIZE
    columns = math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    size = max(MAX_SIZE[0] // columns, MIN_TILE_SIZE[0]), max(MAX_SIZE[1] // rows, MIN_TILE_SIZE[1])
    return columns, rows, size
