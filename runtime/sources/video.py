"""Read one video file through OpenCV, frame by frame, and say where one ends before its time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..frame import Frame
from ..opencv import cv2
from ..process import usable_cpus
from .stream import OPENING_TURN

MIN_SHARE = 0.9  # of the announced frames in a whole video; a count guessed from a duration is a little off
LAST_FRAME_TIME = 0.5  # seconds for which a video's last frame may be shown


def read_video(path: Path, otherwise: str) -> Iterator[Frame]:
    """Yield every frame of a video file in order; where there is none, one with ``otherwise`` as its error."""
    index, reached, position = 0, 0.0, None
    try:
        capture = _open_video(path)
    except (UnicodeEncodeError, OSError) as cause:
        reason = "its name is not UTF-8: rename it" if isinstance(cause, UnicodeError) else f"can't be read: {cause}"
        yield Frame(str(path), 0, None, reason, video=True)
        return
    try:
        while True:
            there, image = capture.read()
            if not there:
                break
            reached = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # asked now, as after the last frame OpenCV says 0
            position = _position(capture, index, reached, position)
            yield Frame(str(path), index, np.asarray(image, dtype=np.uint8), video=True, position=position)
            index += 1
        error = _incomplete(capture, index, reached) if index else otherwise
        if error:
            yield Frame(str(path), index, None, error, video=True)
    except cv2.error as error:
        yield Frame(str(path), index, None, f"the video decoder failed: {error.err}", video=True)
    finally:
        capture.release()


def _open_video(path: Path) -> cv2.VideoCapture:
    """Open a video, decoded by every core but one, which is left to the engine, unless the user set a number.

    Raises:
        OSError: the name is relative to a folder that is gone.
        UnicodeEncodeError: the name is not UTF-8, at which OpenCV crashes.
    """
    name = str(path.absolute())  # so that it is not taken for a camera, a protocol or an option
    name.encode()
    # FFmpeg where OpenCV has it: others print on stderr, or take a numbered file for an image sequence
    ffmpeg = cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)
    settings: list[int] = []
    if ffmpeg and "OPENCV_FFMPEG_THREADS" not in os.environ and hasattr(cv2, "CAP_PROP_N_THREADS"):
        settings = [cv2.CAP_PROP_N_THREADS, max(1, len(usable_cpus()) - 1)]
    with OPENING_TURN:
        return cv2.VideoCapture(name, cv2.CAP_FFMPEG if ffmpeg else cv2.CAP_ANY, settings)


def _position(capture: cv2.VideoCapture, index: int, reached: float, before: float | None) -> float | None:
    """Return a frame's seconds from the start, by the container, else by its index and rate; they never go back."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    if 0 < reached < math.inf:
        position = reached
    elif 0 < rate < math.inf:
        position = index / rate
    else:
        return before
    return position if before is None else max(position, before)


def _incomplete(capture: cv2.VideoCapture, read: int, seconds: float) -> str | None:
    """Return an error if a video ended well before its header says, by frames and by time; either alone can be a guess.

    With a varying rate, the header announces as many frames as there would be at the highest one.
    """
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate = capture.get(cv2.CAP_PROP_FPS)
    if rate <= 0 or read >= MIN_SHARE * announced:
        return None
    if seconds >= min(MIN_SHARE * announced / rate, announced / rate - LAST_FRAME_TIME):
        return None
    return f"the video ends after {read} of {announced:.0f} frames: truncated or damaged"
