"""A display of a test's own: Xvfb on a free number, its windows driven by xdotool and captured to pictures."""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.display import X11_LIBRARY, keep_events

TOOLS = ("Xvfb", "xdotool", "import")
CLIENT_MESSAGE = 33
PATIENCE = 60.0  # seconds for a window to appear and to be painted, on a busy machine

Pixels = npt.NDArray[np.uint8]


class _ClientMessage(ctypes.Structure):
    """XClientMessageEvent, in the room that XSendEvent reads: an XEvent's 24 longs."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("rest", ctypes.c_long * 12),
    )


def _send_delete(display: str, window: int) -> None:
    """Send WM_DELETE_WINDOW, as a window manager does (ICCCM 4.2.8.1)."""
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    connection = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))
    assert connection, f"no display {display}"
    protocols, delete = (x11.XInternAtom(connection, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
    message = _ClientMessage(CLIENT_MESSAGE, 0, 1, None, window, protocols, 32, (delete, 0, 0, 0, 0))
    x11.XSendEvent(connection, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(message))
    x11.XSync(connection, 0)
    x11.XCloseDisplay(connection)


class Display:
    """An X server without a screen.

    Attributes:
        name: what to set DISPLAY to.
        environment: this process's own, with it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.environment = {key: value for key, value in os.environ.items() if key != "WAYLAND_DISPLAY"}
        self.environment["DISPLAY"] = name

    def window(self, title: str) -> str:
        """The id of a window, once it is there."""
        until = time.monotonic() + PATIENCE
        while True:
            found = self._run("xdotool", "search", "--onlyvisible", "--name", title, check=False).split()
            if found:
                return found[-1].decode()
            assert time.monotonic() < until, f"no window {title!r} within {PATIENCE} s"
            time.sleep(0.1)

    def picture_when(self, title: str, painted: Callable[[Pixels], object]) -> Pixels:
        """What a window shows, once it shows what is waited for."""
        until = time.monotonic() + PATIENCE
        while not painted(picture := self.picture(title)):
            assert time.monotonic() < until, f"{title}: what is waited for is never painted"
            time.sleep(0.05)
        return picture

    def key(self, title: str, key: str) -> None:
        """Press and release a key in a window: ``q``, ``Escape``."""
        self._run("xdotool", "key", "--window", self.window(title), key)

    def ask_to_close(self, title: str) -> None:
        """What the close button of its frame does: xdotool has no word for it before version 3.2021."""
        _send_delete(self.name, int(self.window(title)))

    def drag(self, title: str, *points: tuple[int, int]) -> None:
        """Draw with the left button along points of a window, pixels from its upper left corner."""
        window = self.window(title)
        (x, y), *others = points
        self._run("xdotool", "mousemove", "--window", window, str(x), str(y), "mousedown", "1")
        for x, y in others:
            self._run("xdotool", "mousemove", "--window", window, str(x), str(y))
        self._run("xdotool", "mouseup", "1")

    def picture(self, title: str) -> Pixels:
        """What a window shows, (H, W, 3) uint8, BGR."""
        until = time.monotonic() + PATIENCE
        while not (data := self._run("import", "-window", self.window(title), "png:-", check=False)):
            assert time.monotonic() < until, f"{title}: no picture of it within {PATIENCE} s"  # it is just being moved
            time.sleep(0.1)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None, "expected a PNG of the window"
        return np.asarray(image, np.uint8)

    def _run(self, *command: str, check: bool = True) -> bytes:
        done = subprocess.run(command, env=self.environment, capture_output=True, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.stdout


@contextmanager
def open_display(size: str = "1280x900x24") -> Iterator[Display]:
    """Start an X server on a number that is free, and end it; the test is skipped where its tools are not installed."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not keep_events():  # without it one new window in fifty stays empty
        missing.append(X11_LIBRARY)
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)} (apt install xvfb xdotool imagemagick libx11-xcb1)")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        # without -noreset it starts anew, and refuses whoever comes, when its last window is closed
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", size, "-nolisten", "tcp", "-noreset"],
        pass_fds=(writing,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as numbers:
            number = numbers.readline().strip()
        assert number, f"Xvfb ended with {server.wait(10)}"
        yield Display(f":{number}")
    finally:
        server.terminate()
        server.wait(10)
