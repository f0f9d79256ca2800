"""Shows the sources side by side in a window, each with its picture, its top labels and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from ..canvas.draw import BACKGROUND, DIM, TEXT, Bars, Box, canvas, fill, row
from ..canvas.text import Pixels
from ..canvas.tile import Tile
from ..opencv import cv2
from ..sources.events import Event
from .display import require_display
from .sink import Result, Sink, Status

__all__ = ["QUIT_KEYS", "WITHOUT", "Window", "is_visible", "pressed_key"]

REDRAW = 1 / 25  # seconds between two drawings; more of them would take time from the model
SHARE = 4  # the pause after a drawing is at least so many times as long as it: sixteen large pictures take long
IDLE_REDRAW = 0.5  # seconds between two drawings where nothing came: they show for how long it has been silent
SINGLE = (880, 720)  # pixels; fits the 1280x800 screens that devices have
LARGEST = (1280, 760)
SMALLEST_TILE = (300, 240)
MOST_TILES = 16
GAP = 2  # pixels between places
BORDER = (8, 7, 6)
FILES = ""  # the name of the place that all files share
WAIT = 1  # milliseconds that OpenCV handles the window's events for
WITHOUT = "leave the window out with --headless"
QUIT_KEYS = frozenset({"q", "\x1b"})
TROUBLE = frozenset({"lost", "stalled"})


class Window(Sink):
    """This sink shows the newest result of each source; Q, Esc or closing the window asks to stop.

    Files share one place, each camera or stream has its own. A picture whose source gave nothing for two seconds, or
    was reported as lost or stalled, is dimmed, says so, and has no label.

    Attributes:
        picture: what was drawn last, (H, W, 3) uint8, BGR.
    """

    def __init__(
        self, labels: Sequence[str], top_k: int = 5, title: str = "hybrid-edge", *, live: Collection[str] = ()
    ) -> None:
        """Open the window.

        Args:
            labels: all labels of the model.
            top_k: how many labels to show; fewer where a source's place is too small.
            title: the window's title, by which OpenCV knows it.
            live: names of the cameras and streams, as their frames carry them, in the order of their places.

        Raises:
            UsageError: no window can be opened here.
        """
        require_display(WITHOUT)
        self._title = title
        self._top_k = top_k
        self._bars = Bars(labels)
        self._tiles = {name: Tile(name, self._bars, top_k) for name in live or [FILES]}
        self._live = frozenset(live)
        self._status: Status | None = None
        self._changed = True
        self._drawn = 0.0
        self._pause = REDRAW
        self._stopped = False
        self.picture = canvas(*SINGLE)
        # no tool bar; the picture keeps its proportions when the window is resized
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(title, *SINGLE)
        self._draw()

    def write(self, result: Result) -> None:
        """Show this result from the next ``poll`` on."""
        tile = self._tile(result.frame.source)
        tile.name = result.frame.source
        tile.take(result)
        self._changed = True

    def event(self, event: Event) -> None:
        """Mark a source that was lost or stalled."""
        if event.kind in TROUBLE and event.source in self._live:
            self._tile(event.source).trouble(event)
            self._changed = True

    def status(self, status: Status) -> None:
        """Show rate and ages in the last line."""
        self._status = status
        self._changed = True

    def poll(self) -> bool:
        """Draw what is new and handle keys; return whether the user asked to stop."""
        if time.monotonic() >= self._drawn + (self._pause if self._changed else IDLE_REDRAW):
            self._draw()
        if pressed_key(WAIT) in QUIT_KEYS or not is_visible(self._title):
            self._stopped = True
        return self._stopped

    def close(self) -> None:
        """Close the window, unless the user has."""
        if is_visible(self._title):
            cv2.destroyWindow(self._title)
            cv2.waitKey(WAIT)  # lets the window system carry out the closing

    def _tile(self, source: str) -> Tile:
        name = source if source in self._live else FILES
        if name not in self._tiles:
            self._tiles[name] = Tile(source, self._bars, self._top_k)
        return self._tiles[name]

    def _draw(self) -> None:
        start = time.monotonic()
        tiles = list(self._tiles.values())[:MOST_TILES]
        columns, rows, (width, height) = _grid(len(tiles))
        size = max(min(height // 36, 18), 12)
        foot = 2 * size
        if self.picture.shape != (rows * height + foot, columns * width, 3):
            self.picture = canvas(columns * width, rows * height + foot)
            cv2.resizeWindow(self._title, self.picture.shape[1], self.picture.shape[0])
        fill(self.picture, BORDER)
        gap = GAP if len(tiles) > 1 else 0
        for number, tile in enumerate(tiles):
            place = Box(number % columns * width, number // columns * height, width - gap, height - gap)
            tile.draw(place.of(self.picture), size)
        self._draw_foot(self.picture[-foot:], size, len(self._tiles) - len(tiles))
        cv2.imshow(self._title, self.picture)
        self._drawn, self._changed = time.monotonic(), False
        self._pause = max(REDRAW, SHARE * (self._drawn - start))

    def _draw_foot(self, pixels: Pixels, size: int, hidden: int) -> None:
        fill(pixels, BACKGROUND)
        status = self._status
        left = right = ""
        if status is not None:
            left = f"{status.fps:.1f} results/s   age {status.age_p50_ms:.0f} ms, 99 % under {status.age_p99_ms:.0f} ms"
            right = f"inference {status.inference_ms:.1f} ms"
        if hidden:
            right = f"{hidden} more sources not shown   {right}"
        row(pixels, left, right, size, (TEXT, DIM))


def pressed_key(wait: int) -> str:
    """Wait for a key and return its character, a capital as its small letter; empty if none or another key came.

    ``waitKey`` gives only the lowest eight bits, which make a Q of the left arrow (X11's 0xff51). All are needed, but
    for those from the seventeenth on: there GTK has Shift, Caps Lock and Num Lock.

    Args:
        wait: for how long to wait, milliseconds.
    """
    code = cv2.waitKeyEx(wait) & 0xFFFF
    return chr(code).lower() if 0 < code < 256 else ""


def is_visible(title: str) -> bool:
    """Return whether this process has a window of that title open."""
    try:
        visible = cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE)
        if visible < 0:  # GTK, which a Jetson's OpenCV has, never knows; but other properties it knows of open ones
            return bool(cv2.getWindowProperty(title, cv2.WND_PROP_AUTOSIZE) >= 0)
        return bool(visible >= 1)
    except cv2.error:  # some builds raise for a window that is gone
        return False


def _grid(count: int) -> tuple[int, int, tuple[int, int]]:
    """Return columns, rows and the (width, height) of one place, pixels: as many columns as rows, or one more."""
    if count <= 1:
        return 1, 1, SINGLE
    columns = 1
    while columns * columns < count:
        columns += 1
    rows = -(-count // columns)
    size = max(LARGEST[0] // columns, SMALLEST_TILE[0]), max(LARGEST[1] // rows, SMALLEST_TILE[1])
    return columns, rows, size
