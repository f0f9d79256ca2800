"""Read image files, folders, globs and video files, one frame at a time."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ImageError, SourceError, UsageError
from ..frame import Frame
from ..preprocess import IMAGE_SUFFIXES, read_image
from .names import parse_live
from .video import read_video

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})


class Sources:
    """These validated sources are iterable any number of times, with one frame and one folder's names in memory.

    ``total`` is the number of frames there will be, or None where a video is among the sources.
    """

    def __init__(self, patterns: Sequence[str | Path]) -> None:
        self._roots = [path for pattern in patterns for path in _expand(str(pattern))]
        count, videos = 0, False
        for found in self._files():
            video = isinstance(found, Path) and found.suffix.lower() in VIDEO_SUFFIXES
            count, videos = count + 1, videos or video
        self.total = None if videos else count

    def __iter__(self) -> Iterator[Frame]:
        for found in self._files():
            yield from (found,) if isinstance(found, Frame) else _frames(found)

    def _files(self) -> Iterator[Path | Frame]:
        for root in self._roots:
            yield from _walk(root) if os.path.isdir(root) else (root,)


def open_sources(patterns: Sequence[str | Path]) -> Sources:
    """Find what there is to read, an iterable of ``Frame``; nothing is decoded before iteration.

    ``patterns`` are image and video files, folders (every image and video below them, hidden ones left out), and globs
    (``**`` too). Folders and globs come in natural order: ``img2`` before ``img10``. A file, or a folder inside one,
    that can't be read is a frame with an ``error``, in its place.

    Raises:
        SourceError: a source does not exist or can't be looked at, a folder holds no image or video, or a glob matches
            nothing.
        UsageError: there is no source, an empty name, or the name of a live source.
    """
    check_names(patterns)
    return Sources(patterns)


def check_names(names: Sequence[str | Path]) -> None:
    """Refuse an empty name, which would mean the whole current folder, and no name at all, with a UsageError."""
    if not names:
        raise UsageError("expected at least one source: a camera, a stream, an image, a folder, a glob or a video")
    if not all(str(name).strip() for name in names):
        raise UsageError(
            "expected the name of a source, found an empty one: is a variable of the shell not set? "
            "The current folder is named by a dot"
        )


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern)
    if parse_live(pattern) is not None:
        raise UsageError(
            f"{pattern}: open_sources does not read live sources (cameras, streams), open_captures does; "
            "expected an image, a folder, a glob or a video file"
        )
    if os.path.isdir(path):
        first = next(_walk(path), None)
        if isinstance(first, Frame) and first.source == str(path):
            raise SourceError(f"{pattern}: {first.error}")
        if first is None:
            kinds = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
            raise SourceError(f"{pattern}: expected images or videos in the folder, found none of {kinds}")
        return [path]
    if _exists(path, pattern):
        return [path]
    if not glob.has_magic(pattern):
        raise SourceError(f"{pattern}: expected a file, a folder or a glob, found nothing of that name")
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    matches = [Path(name) for name in sorted(names, key=_natural)]
    walked = "**" not in pattern  # else a folder among the matches is walked by ** itself
    found = [match for match in matches if not os.path.isdir(match) or (walked and next(_walk(match), None))]
    if not found:
        raise SourceError(
            f"{pattern}: expected files, found none that match; quote a glob so that the shell leaves it alone"
        )
    return found


def _exists(path: Path, pattern: str) -> bool:
    """Return whether something of exactly that name is there; SourceError where the path can't be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG and glob.has_magic(pattern):  # what it matches may be shorter
            return False
        raise SourceError(f"{pattern}: can't be read: {error.strerror or error}") from None
    return True


def _walk(folder: Path) -> Iterator[Path | Frame]:
    """Yield images and videos below a folder, depth first, in natural order; links to folders are not followed.

    A folder that can't be read is yielded as a frame whose ``error`` says why.
    """
    try:
        with os.scandir(folder) as entries:
            visible = sorted(
                (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: _natural(entry.name)
            )
    except OSError as error:
        yield Frame(str(folder), 0, None, f"the folder can't be read: {error.strerror or error}")
        return
    for entry in visible:
        if not _leads_to_folder(entry):
            if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
                yield folder / entry.name
        elif not entry.is_symlink():
            yield from _walk(folder / entry.name)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; one that can't be looked at counts as a file, whose reading says why."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which numbers inside names count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


def _frames(path: Path) -> Iterator[Frame]:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        yield from read_video(path, "not a video that OpenCV reads: damaged, or sound alone")
        return
    try:
        frame = Frame(str(path), 0, read_image(path))
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ")
        if suffix not in IMAGE_SUFFIXES and os.path.isfile(path):
            yield from read_video(path, f"neither an image nor a video that OpenCV reads ({reason})")
            return
        frame = Frame(str(path), 0, None, reason)
    yield frame
