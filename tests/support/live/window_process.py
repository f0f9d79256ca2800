"""A live window in a process of its own (Qt keeps to one display): ``cam0`` gives red pictures, ``cam1`` green ones.

Arguments: where to keep the last picture that was drawn, then the sources. It ends when its window asks it to. With
``gtk`` among the sources the window answers what a Jetson's OpenCV, built with GTK, does.
"""

import sys
import time
from pathlib import Path

import numpy as np

from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.window import Window
from support.live.results import LABELS, make_result, make_status

COLORS = {"cam0": (0, 0, 255), "cam1": (0, 255, 0)}
PATIENCE = 60.0  # seconds: a test that fails must not leave a process behind


def answer_as_gtk() -> None:
    """GTK has -1 for what it does not know, visibility above all, and for every property of a window that is gone."""
    ask = cv2.getWindowProperty

    def answer(title: str, kind: int) -> float:
        open_ = ask(title, cv2.WND_PROP_VISIBLE) >= 1
        return 0.0 if open_ and kind == cv2.WND_PROP_AUTOSIZE else -1.0

    cv2.getWindowProperty = answer


def run(kept: Path, sources: list[str]) -> int:
    """Show results until the window asks to stop: 0; 1 where it never does."""
    window = Window(LABELS, 5, live=sources)
    window.status(make_status())
    stop = time.monotonic() + PATIENCE
    index = 0
    while time.monotonic() < stop:
        for source in sources:
            window.write(make_result(source, index, color=COLORS[source]))
        index += 1
        if window.poll():
            np.save(kept, window.picture)
            window.close()
            return 0
        time.sleep(0.04)
    return 1


if __name__ == "__main__":
    names = sys.argv[2:]
    if "gtk" in names:
        names.remove("gtk")
        answer_as_gtk()
    sys.exit(run(Path(sys.argv[1]), names))
