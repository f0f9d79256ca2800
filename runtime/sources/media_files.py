"""Images and videos are found in folders by one rule, in training, calibration, export, inference and comparison.

- Hidden entries, and what file servers, systems, version control and trainings leave, are never data.
- A file's usual suffix says what it is, else its first bytes do. What OpenCV can't read is left out and counted.
- Links to folders are followed, but never back up into a folder that holds the place where they are.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..frame import Frame
from ..opencv import cv2
from ..preprocess import IMAGE_SUFFIXES

MediaKind = Literal["image", "video", "image that OpenCV lacks", "other"]

MOTION_JPEG_SUFFIXES = frozenset({".mjpeg", ".mjpg"})  # begin as a JPEG does
VIDEO_SUFFIXES = MOTION_JPEG_SUFFIXES | {".h264", ".hevc"}  # bare streams, as a Raspberry Pi's camera writes them
VIDEO_SUFFIXES |= {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
# a raw photograph is a TIFF by its first bytes, and OpenCV would take the thumbnail in it
RAW_SUFFIXES = frozenset({".dng", ".nef", ".nrw", ".cr2", ".arw", ".srw", ".pef", ".3fr", ".iiq", ".kdc", ".dcr"})
DEBRIS = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@recycle", "@recently-snapshot", "~snapshot"),  # NAS
        *("@transcode", "@__thumb", "@sharesnap"),
        *("lost+found", "$recycle.bin", "system volume information"),  # disks
        *("found.000", "found.001"),  # what chkdsk puts together
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),  # Windows
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "icon\r"),  # macOS
        *("_svn", "__pycache__"),
        *("wandb", "mlruns", "lightning_logs"),  # records of trainings
    }
)
DEBRIS_CAPITALS = frozenset({"CVS", "RECYCLER", "RECYCLED"})  # in other letters they are classes
DEBRIS_SUFFIXES = (".lrdata",)  # Lightroom's previews
# each with what else begins alike ruled out: a text may begin with BM or P5
IMAGE_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|P[1-7]\s+[\d#W]|P[Ff]\n"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|#\?R(?:ADIANCE|GBE)|Y\xa6j\x95|v/1\x01|8BPS"
    rb"|\0{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|\0{3}\x0cJXL \r\n|\xff\x0a"
    rb"|.{4}ftyp(?:avi[fs]|hei[cmsx]|hev[cmsx]|mif[12]|msf1)",
    re.DOTALL,
)
VIDEO_START = re.compile(
    rb".{4}ftyp(?!M4[ABP] |crx )|\0.{3}(?:moov|mdat|wide|skip|free|pnot)|\x1aE\xdf\xa3|RIFF.{4}AVI |FLV\x01"
    rb"|G.{187}G.{187}G|.{4}G.{191}G.{191}G|\0{2}\x01[\xba\xb3]|0&\xb2u\x8ef\xcf\x11|OggS.{24,}\x80theora|YUV4MPEG2|DKIF"
    rb"|\0{3}\x01[\x09\x27\x40\x46\x67]|\.RMF|\x06\x0e\+4|\x1f\x07\0[\x3f\xbf]",
    re.DOTALL,
)
START = 400  # bytes: three packets of an MPEG transport stream
MAX_SUFFIXES = 8  # named in the line of what is left out


def find_media(
    folder: Path, left_out: Counter[str] | None = None, *, videos: bool = True, also: tuple[str, ...] = ()
) -> Iterator[Path | Frame]:
    """Yield the images and videos below a folder, depth first, in natural order: ``img2`` before ``img10``.

    Without ``videos`` they are images alone; files whose names, in lower case, end in one of ``also`` are yielded too.
    ``left_out`` counts by suffix what is left out. A folder that can't be read is yielded as a frame whose ``error``
    says why; a broken link counts as the file that its name promises.
    """
    counted = Counter[str]() if left_out is None else left_out
    for path, found in _walk(folder, counted):
        if isinstance(found, OSError):
            yield Frame(str(path), 0, None, f"the folder can't be read: {found.strerror or found}")
        elif found == "file" and (path.name.lower().endswith(also) or is_wanted(path, counted, videos=videos)):
            yield path


def find_folders(folder: Path) -> Iterator[Path]:
    """Yield a folder and those below it in which ``find_media`` looks."""
    return (path for path, found in _walk(folder, Counter()) if found == "folder")


def _walk(folder: Path, left_out: Counter[str]) -> Iterator[tuple[Path, OSError | Literal["folder", "file"]]]:
    real, logical = (Path(os.path.realpath(path)) for path in (folder, folder.parent))
    pending = [(folder, True, frozenset(map(str, (real, *real.parents, logical, *logical.parents))))]
    while pending:
        path, is_folder, above = pending.pop()
        if not is_folder:
            yield path, "file"
            continue
        try:
            entries = visible_entries(path, left_out)
        except OSError as error:
            yield path, error
            continue
        yield path, "folder"
        for entry in reversed(entries):
            inner = path / entry.name
            if not leads_to_folder(entry):
                pending.append((inner, False, above))
            elif (target := os.path.realpath(inner)) not in above:
                pending.append((inner, True, above | {target}))


def visible_entries(folder: Path, left_out: Counter[str] | None = None) -> list[os.DirEntry[str]]:
    """List a folder in natural order without hidden entries and debris, whose folders ``left_out`` counts."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    kept = []
    for entry in sorted(visible, key=lambda entry: natural_order(entry.name)):
        if not is_debris(entry.name) and not _left_by_a_tool(entry):
            kept.append(entry)
        elif left_out is not None and leads_to_folder(entry):
            left_out[f"{entry.name}/"] += 1
    return kept


def is_debris(name: str) -> bool:
    """Tell by its name whether a file or folder is hidden or was left by a system, and is never data."""
    folded = name.casefold()
    return name.startswith(".") or name in DEBRIS_CAPITALS or folded in DEBRIS or folded.endswith(DEBRIS_SUFFIXES)


def _left_by_a_tool(entry: os.DirEntry[str]) -> bool:
    """Tell whether a folder has the runs of hybrid-train, or of Ultralytics' tools, or is a Python environment."""
    if not leads_to_folder(entry):
        return False
    folder = Path(entry.path)
    if entry.name == "runs":
        marks = ("latest", "*/*/args.yaml", "*/*/opt.yaml")
        return any(path.name != "latest" or path.is_symlink() for mark in marks for path in folder.glob(mark))
    return os.path.isfile(folder / "pyvenv.cfg")


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; one that can't be looked at counts as a file, whose reading says why."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which numbers inside names count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


def media_kind(path: Path) -> MediaKind:
    """Tell what a file is by its suffix where that is a usual one, else by its content."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "other" if suffix in RAW_SUFFIXES else kind_by_content(path)


def kind_by_content(path: Path) -> MediaKind:
    """Tell what a file is by its first bytes; what can't be opened, a pipe and a device are ``other``."""
    try:
        if not path.is_file():
            return "other"
        with path.open("rb") as file:
            start = file.read(START)
    except OSError:
        return "other"
    if IMAGE_START.match(start) and path.suffix.lower() not in MOTION_JPEG_SUFFIXES:
        return "image" if _opencv_reads(path) else "image that OpenCV lacks"
    return "video" if VIDEO_START.match(start) else "other"


def _opencv_reads(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # OpenCV crashes at such a name; reading the file, which we do, tells
        return True
    return bool(cv2.haveImageReader(str(path)))


def is_wanted(path: Path, left_out: Counter[str], *, videos: bool) -> bool:
    """Tell whether a file is an image or, if those count, a video; else count it by its suffix in ``left_out``."""
    kind = media_kind(path)
    if kind == "image" or (videos and kind == "video"):
        return True
    suffix = path.suffix.lower() or "without a suffix"
    if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH114 - Path's raise where they may not look
        suffix = "broken link"
    left_out[f"{suffix} (this OpenCV can't read it)" if kind == "image that OpenCV lacks" else suffix] += 1
    return False


def describe_left_out(left_out: Counter[str]) -> str:
    """Return what was left out as one line, the most frequent first; an empty string where it is nothing."""
    if not left_out:
        return ""
    named = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in named[MAX_SUFFIXES:])
    parts = [f"{count:,} {suffix}" for suffix, count in named[:MAX_SUFFIXES]]
    return "left out: " + ", ".join(parts + ([f"{rest:,} of other kinds"] if rest else []))
