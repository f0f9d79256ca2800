"""Sources of frames: image files, folders, globs and video files, read one frame at a time."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import ImageError, SourceError, UsageError
from ..frame import Frame
from ..opencv import cv2
from ..preprocess import IMAGE_SUFFIXES, read_image
from .ffmpeg_options import file_options

__all__ = ["VIDEO_SUFFIXES", "Sources", "open_sources"]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
LIVE = re.compile(r"^(?:[a-z][a-z0-9+.-]*://|/dev/(?:video|v4l/)|\d+$)", re.IGNORECASE)
ENOUGH = 0.9  # of the frames a video's header announces; a count estimated from its duration is a little off
LAST = 0.5  # seconds for which the last frame may be shown


class Sources:
    """Validated sources, iterable any number of times; at most one decoded frame and one folder's names are in memory.

    Attributes:
        total: how many frames there will be, or None where a video is among them.
    """

    def __init__(self, patterns: Sequence[str | Path]) -> None:
        self._roots = [path for pattern in patterns for path in _expand(str(pattern))]
        count, videos = 0, False
        for path in self._files():
            count, videos = count + 1, videos or path.suffix.lower() in VIDEO_SUFFIXES
        self.total = None if videos else count

    def __iter__(self) -> Iterator[Frame]:
        for path in self._files():
            yield from _frames(path)

    def _files(self) -> Iterator[Path]:
        for root in self._roots:
            yield from _walk(root) if root.is_dir() else (root,)


def open_sources(patterns: Sequence[str | Path]) -> Sources:
    """Find what there is to read; nothing is decoded before iteration.

    Args:
        patterns: image and video files, folders (every image and video below them, hidden ones left out), and globs
            (``**`` too). Folders and globs come in natural order: ``img2`` before ``img10``.

    Returns:
        An iterable of ``Frame``. A file that can't be read is a frame with an ``error``, in its place.

    Raises:
        SourceError: a source does not exist, a folder holds no image or video, or a glob matches nothing.
        UsageError: no source at all, or a live one.
    """
    if not patterns:
        raise UsageError("expected at least one source: an image, a folder, a glob or a video; found none")
    return Sources(patterns)


def _expand(pattern: str) -> list[Path]:
    """The files and folders that a source names, all there."""
    path = Path(pattern)
    if LIVE.match(pattern) and not path.is_file() and not path.is_dir():
        raise UsageError(
            f"{pattern}: open_sources does not read live sources (cameras, streams), open_captures does; "
            "expected an image, a folder, a glob or a video file"
        )
    if path.is_dir():
        if next(_walk(path), None) is None:
            kinds = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
            raise SourceError(f"{pattern}: expected images or videos in the folder, found none of {kinds}")
        return [path]
    if path.exists():
        return [path]
    if not glob.has_magic(pattern):
        raise SourceError(f"{pattern}: expected a file, a folder or a glob, found nothing of that name")
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    matches = [Path(name) for name in sorted(names, key=_natural)]
    # a folder among the matches of ** is walked by ** itself
    files = [match for match in matches if not match.is_dir()]
    found = files if "**" in pattern else [match for match in matches if not match.is_dir() or next(_walk(match), None)]
    if not found:
        raise SourceError(
            f"{pattern}: expected files, found none that match; quote a glob so that the shell leaves it alone"
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Images and videos below a folder, depth first, in natural order; links to folders are not followed."""
    with os.scandir(folder) as entries:
        visible = sorted(
            (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: _natural(entry.name)
        )
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name)
        elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not entry.is_dir():
            yield folder / entry.name


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which numbers inside names count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


def _frames(path: Path) -> Iterator[Frame]:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        yield from _video(path, "not a video that OpenCV reads, or damaged")
        return
    try:
        frame = Frame(str(path), 0, read_image(path))
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ")
        if suffix not in IMAGE_SUFFIXES and path.is_file():
            yield from _video(path, f"neither an image nor a video that OpenCV reads ({reason})")
            return
        frame = Frame(str(path), 0, None, reason)
    yield frame


def _video(path: Path, otherwise: str) -> Iterator[Frame]:
    """Every frame of a video file in order; ``otherwise`` is the error where it has none."""
    # an absolute path, so that no name is taken for a camera, a protocol or an option
    with file_options():
        capture = cv2.VideoCapture(str(path.absolute()), _reader(), _decoding_threads())
    try:
        index, reached = 0, 0.0
        while True:
            there, image = capture.read()
            if not there:
                break
            reached = capture.get(cv2.CAP_PROP_POS_MSEC)  # after the last frame it says 0
            yield Frame(str(path), index, np.asarray(image, dtype=np.uint8), video=True)
            index += 1
        error = _incomplete(capture, index, reached / 1000) if index else otherwise
        if error:
            yield Frame(str(path), index, None, error, video=True)
    except cv2.error as error:
        yield Frame(str(path), index, None, f"the video decoder failed: {error.err}", video=True)
    finally:
        capture.release()


def _reader() -> int:
    """FFmpeg where OpenCV has it: the others print on stderr, or take a numbered file for a sequence of images."""
    return cv2.CAP_FFMPEG if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG) else cv2.CAP_ANY


def _decoding_threads() -> list[int]:
    """Open options: a thread for every core but one, which the engine needs; the user's own number goes before."""
    if "OPENCV_FFMPEG_THREADS" in os.environ or _reader() != cv2.CAP_FFMPEG or not hasattr(cv2, "CAP_PROP_N_THREADS"):
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [cv2.CAP_PROP_N_THREADS, max(1, cores - 1)]


def _incomplete(capture: cv2.VideoCapture, read: int, seconds: float) -> str | None:
    """Whether a video ended well before its header says, by frames and by time, as each alone can be a guess.

    Frames of a varying rate are announced as many as there would be at the highest one.
    """
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate = capture.get(cv2.CAP_PROP_FPS)
    if rate > 0 and read < ENOUGH * announced and seconds < min(ENOUGH * announced / rate, announced / rate - LAST):
        return f"the video ends after {read} of {announced:.0f} frames: truncated or damaged"
    return None
