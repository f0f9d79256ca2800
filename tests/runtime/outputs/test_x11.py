"""Events of windows on Linux: who decides which library reads them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.live.display import Display, open_display

from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.display import X11_LIBRARY, keep_events

SYMBOL = "XSetEventQueueOwner"
WHEEL = Path(cv2.__file__).resolve().parents[1] / "opencv_python.libs"
PROGRAM = """
import cv2
from hybrid_edge.runtime.outputs.display import require_display
require_display("no window")
cv2.namedWindow("one")
cv2.waitKey(1)
"""


def owner(display: Display, folder: Path, program: str) -> Path:
    """Which library a program's Qt takes the function from that says who reads events."""
    environment = {**display.environment, "LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(folder / "bindings")}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment)
    assert child.wait(60) == 0
    text = (folder / f"bindings.{child.pid}").read_text(errors="replace")
    found = re.findall(rf"binding file \S*libQt5XcbQpa\S* \[0\] to (\S+) \[0\]: normal symbol `{SYMBOL}'", text)
    assert len(found) == 1, found
    return Path(found[0])


@pytest.mark.skipif(not WHEEL.is_dir(), reason="OpenCV is not pip's wheel here, which brings a libX11-xcb of its own")
def test_qt_asks_the_installed_library_which_fits_the_installed_xlib(tmp_path: Path) -> None:
    if not keep_events():
        pytest.skip(f"{X11_LIBRARY} is not installed here (apt install libx11-xcb1)")
    with open_display() as display:
        ours = owner(display, tmp_path, PROGRAM)
        without = owner(display, tmp_path, PROGRAM.replace('require_display("no window")', ""))
    assert ours.name == X11_LIBRARY
    if without.name == X11_LIBRARY:
        pytest.skip("this wheel takes the installed library by itself")
    assert without.parent.resolve() == WHEEL


def test_it_is_harmless_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.outputs.display.X11_LIBRARY", "libno-such-library.so.1")
    assert not keep_events()
