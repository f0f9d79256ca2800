"""Read image files, folders, globs and video files, one frame at a time."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ImageError, SourceError, UsageError
from ..frame import Frame
from ..preprocess import IMAGE_SUFFIXES, read_image
from .media_files import (
    DEBRIS,
    VIDEO_SUFFIXES,
    describe_left_out,
    find_folders,
    find_media,
    kind_by_content,
    media_kind,
    natural_order,
)
from .names import display_name, parse_live
from .video import read_video

MISTYPED = re.compile(
    r"^.*:.*@", re.DOTALL
)  # name and password of an address without its ://, as in rtsp:/anna:secret@


class Sources:
    """These validated sources are iterable any number of times, with one frame and one folder's names in memory.

    ``total`` is the number of frames there will be, or None where a video is among the sources. ``left_out`` counts by
    suffix what folders hold besides.
    """

    def __init__(self, patterns: Sequence[str | Path]) -> None:
        self._roots = [path for pattern in patterns for path in _expand(str(pattern))]
        count, videos = 0, False
        self.left_out: Counter[str] = Counter()
        for found in self._files(self.left_out):
            video = isinstance(found, Path) and media_kind(found) == "video"
            count, videos = count + 1, videos or video
        self.total = None if videos else count

    def __iter__(self) -> Iterator[Frame]:
        for found in self._files():
            yield from (found,) if isinstance(found, Frame) else _frames(found)

    def _files(self, left_out: Counter[str] | None = None) -> Iterator[Path | Frame]:
        for root in self._roots:
            yield from find_media(root, left_out) if os.path.isdir(root) else (root,)


def open_sources(patterns: Sequence[str | Path]) -> Sources:
    """Find what there is to read, an iterable of ``Frame``; nothing is decoded before iteration.

    ``patterns`` are image and video files, folders (every image and video below them, by the rule of ``find_media``),
    and globs (``**`` too). Folders and globs come in natural order: ``img2`` before ``img10``. A file, or a folder
    inside one, that can't be read is a frame with an ``error``, in its place.

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
            f"{display_name(pattern)}: open_sources does not read live sources (cameras, streams), open_captures does; "
            "expected an image, a folder, a glob or a video file"
        )
    if os.path.isdir(path):
        left_out: Counter[str] = Counter()
        first = next(find_media(path, left_out), None)
        if isinstance(first, Frame) and first.source == str(path):
            raise SourceError(f"{pattern}: {first.error}")
        if first is None:
            besides = describe_left_out(left_out) or "it holds no file"
            raise SourceError(
                f"{pattern}: expected images or videos in the folder, found none that OpenCV reads; {besides}"
            )
        return [path]
    if _exists(path, pattern):
        return [path]
    shown = MISTYPED.sub("***@", pattern)
    if not glob.has_magic(pattern):
        raise SourceError(f"{shown}: expected a file, a folder or a glob, found nothing of that name")
    matches = [Path(name) for name in sorted(_matches(pattern), key=natural_order)]
    walked = "**" not in pattern  # else a folder among the matches is walked by ** itself
    found = [match for match in matches if not os.path.isdir(match) or (walked and next(find_media(match), None))]
    if not found:
        raise SourceError(
            f"{shown}: expected files, found none that match; quote a glob so that the shell leaves it alone"
        )
    return found


def _matches(pattern: str) -> set[str]:
    """Return what a glob matches; ``**`` goes through the folders that ``find_media`` does: loops of links end."""
    parts = pattern.split("/")
    if "**" not in parts:
        names = glob.glob(pattern)  # noqa: PTH207 - Path.glob takes no absolute pattern
        asked = {part.casefold() for part in parts}
        return {name for name in names if not DEBRIS & ({part.casefold() for part in name.split("/")} - asked)}
    star = parts.index("**")
    roots = _matches("/".join([*parts[:star], ""])) if star else {"."}
    after = "/".join(parts[star + 1 :]) or "*"
    folders = {str(folder) for root in roots for folder in find_folders(Path(root))}
    return {name for folder in folders for name in _matches(f"{glob.escape(folder)}/{after}")}


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


def _frames(path: Path) -> Iterator[Frame]:
    suffix, content = path.suffix.lower(), kind_by_content(path)
    if content == "video" or (content == "other" and suffix in VIDEO_SUFFIXES):
        yield from read_video(path, "not a video that OpenCV reads: damaged, or sound alone")
        return
    try:
        frame = Frame(str(path), 0, read_image(path))
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ")
        if suffix not in IMAGE_SUFFIXES and content != "image that OpenCV lacks" and os.path.isfile(path):
            yield from read_video(path, f"neither an image nor a video that OpenCV reads ({reason})")
            return
        frame = Frame(str(path), 0, None, reason)
    yield frame
