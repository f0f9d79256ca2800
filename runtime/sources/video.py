"""Read one video file through OpenCV, frame by frame, and say where one ends before its time."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import OversizedError
from ..frame import Frame, Pixels
from ..image_headers import check_size
from ..opencv import cv2
from ..process import usable_cpus
from .blocking import OPENING_TURN
from .containers import Container, read_container

MIN_SHARE = 0.9  # of the announced frames in a whole video; a count guessed from a duration is a little off
LAST_FRAME_TIME = 0.5  # seconds for which a video's last frame may be shown


def read_video(path: Path, otherwise: str) -> Iterator[Frame]:
    """Yield every frame of a video file in order; where there is none, one with ``otherwise`` or the cause as error."""
    index, reached, position = 0, 0.0, None
    try:
        container = read_container(path)
        capture = _open_video(path)
    except (UnicodeEncodeError, OSError) as cause:
        reason = (
            f"can't be read: {cause.strerror}" if isinstance(cause, OSError) else "its name is not UTF-8: rename it"
        )
        yield Frame(str(path), 0, None, reason, video=True)
        return
    try:
        check_size(
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), "its frames"
        )
        while True:
            there, image = capture.read()
            if not there:
                break
            reached = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # asked now, as after the last frame OpenCV says 0
            position = _position(capture, index, reached, position)
            pixels = np.asarray(image, dtype=np.uint8)
            pixels = _mirror(capture, pixels) if container.mirrored else pixels
            yield Frame(str(path), index, pixels, video=True, position=position)
            index += 1
        if index:
            error = _incomplete(container, capture, index, reached)
        else:
            error = _undecoded(container, path, otherwise, opened=capture.isOpened())
        if error:
            yield Frame(str(path), index, None, error, video=True)
    except OversizedError as error:
        yield Frame(str(path), 0, None, str(error), video=True)
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


def _mirror(capture: cv2.VideoCapture, image: Pixels) -> Pixels:
    """Mirror a picture that its container wants turned and mirrored, of which OpenCV did the turn alone."""
    sideways = capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90
    return np.asarray(cv2.flip(image, int(sideways)), dtype=np.uint8)


def _incomplete(container: Container, capture: cv2.VideoCapture, read: int, seconds: float) -> str | None:
    """Return an error if a video's file was cut, or its end was never filled and its frames stop before their time."""
    if container.cut:
        return f"the video ends after {read} frame{'s' * (read != 1)}: {_cut(container)}"
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # both guesses: sound may be longer, and rates vary
    rate = capture.get(cv2.CAP_PROP_FPS)
    if not container.hollow or rate <= 0 or read >= MIN_SHARE * announced:
        return None
    if seconds >= min(MIN_SHARE * announced / rate, announced / rate - LAST_FRAME_TIME):
        return None
    return f"the video ends after {read} of {announced:.0f} frames: the end of the file is empty; copy it again"


def _undecoded(container: Container, path: Path, otherwise: str, *, opened: bool) -> str:
    """Return why a video gave no frame: what its container shows, else ``otherwise``."""
    if container.size == 0:
        return "the file is empty"
    if container.cut:
        return f"no frame can be read: {_cut(container)}"
    if container.lost:
        return "its index (moov) is missing, so no frame can be found: was it recorded and copied to its end?"
    codec = container.codec
    if opened and codec != "AV1":  # for which FFmpeg has a decoder that needs a GPU
        return f"none of its frames can be decoded (codec {codec or 'unknown'}): it is damaged, or has no key frame"
    if codec is None:
        return otherwise
    doubt = "" if codec == "AV1" else ", or it is damaged or has no key frame"
    convert = shlex.join(["ffmpeg", "-i", str(path), "-c:v", "libx264", str(path.with_name(f"{path.stem}-h264.mp4"))])
    return f"its codec {codec} can't be decoded by this OpenCV{doubt}; convert it: {convert}"


def _cut(container: Container) -> str:
    return f"the file is cut, {container.size:,} of at least {container.promised:,} bytes are there; copy it again"
