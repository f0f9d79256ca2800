"""Class folders are made of tiny-imagenet as it was downloaded: a folder, a tar or a zip, which is not unpacked first.

Its published layout is:

wnids.txt                          one WordNet id (wnid) a line, the classes
words.txt                          wnid<TAB>name, synonym, ...
train/WNID/images/*.JPEG           beside WNID_boxes.txt
val/images/*.JPEG                  the images of all classes
val/val_annotations.txt            file<TAB>wnid<TAB>box, four numbers
"""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from ..runtime.console import progress
from ..runtime.errors import DataError, UsageError
from ..runtime.preprocess import IMAGE_SUFFIXES
from ..runtime.sources.media_files import find_folders
from .class_folders import ClassFolderWriter, WrittenFolders, list_folder

WNIDS, WORDS, ANNOTATIONS = "wnids.txt", "words.txt", "val/val_annotations.txt"
LISTS = (WNIDS, WORDS, PurePosixPath(ANNOTATIONS).name)
WNID = re.compile(r"[A-Za-z0-9_-]+")  # it becomes part of a folder's name
MAX_MEMBER_BYTES = 64 * 2**20  # for an image or a list; more is a bomb, or not an image
# zipfile raises RuntimeError for an encrypted member, and NotImplementedError, its subclass, for an unknown compression
ARCHIVE_FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)

Opener = Callable[[], IO[bytes] | None]


def prepare_tiny_imagenet(
    src: Path, dst: Path, *, classes: int | None = None, wnids: Path | None = None
) -> WrittenFolders:
    """Make class folders of tiny-imagenet's published layout: ``DST/train/NAME/*.JPEG`` and ``DST/val/NAME/*.JPEG``.

    ``src`` is a folder, or a tar or zip of it. Images are copied byte for byte, never decoded; the source is only read.
    An interrupted call is completed by the next one. NAME is the first synonym in words.txt with ``_`` for blanks;
    where two classes of wnids.txt share it, each has its wnid appended. ``classes`` takes the first so many of
    wnids.txt, ``wnids`` those that a file lists, one wnid a line.

    Raises:
        UsageError: both ``classes`` and ``wnids``, ``classes`` out of range, or ``dst`` inside ``src``.
        DataError: a file of the layout is missing or malformed, a wnid is unknown, an image is missing, or ``dst``
            holds other things.
    """
    if classes is not None and wnids is not None:
        raise UsageError("expected --classes or --wnids, found both: choose the classes by one of them")
    if src.is_dir() and dst.resolve().is_relative_to(src.resolve()):
        raise UsageError(f"{dst} lies inside the source {src}, which is only read: choose a folder outside of it")
    with progress(unit="files", transient=True) as bar:  # how many files there are is known only at the end
        bar.add_task(f"reading {src.name}", total=None)
        source = _read_source(src)
    known = _read_wnids(source.text(WNIDS), f"{src}: {WNIDS}")
    plan = _plan(source, _choose(known, classes, wnids), _class_names(source, known))
    folders = ClassFolderWriter(dst, plan.values())
    with progress(unit="images") as bar:
        for original, data in bar.track(source.read(plan), total=len(plan), description="copying"):
            folders.write(plan[original], data)
    return folders.summary()


@dataclass(frozen=True)
class _Source:
    """The published files: where they lie in the folder or archive, their names below it, and the content of lists."""

    src: Path
    root: PurePosixPath
    names: tuple[str, ...]
    lists: dict[str, bytes]

    def text(self, name: str) -> str:
        try:
            return self.lists[name].decode()
        except KeyError:
            raise DataError(f"{self.src}: expected {name} in it, found none: is this the published layout?") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{self.src}: {name} is not UTF-8 text: {error.reason} at byte {error.start}") from None

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the named files with their bytes, in one pass, in the order in which they are stored."""
        stored = {(self.root / name).as_posix(): name for name in names}
        with _named_failure(self.src):
            for member, opener in _members(self.src, stored):
                yield stored[member], _read_member(member, opener)


def _read_source(src: Path) -> _Source:
    """List the published files, in an archive those below the place where wnids.txt lies least deep."""
    if not src.exists():
        raise DataError(f"{src}: no such file or folder; expected a published data set: a folder, .tar.gz or .zip")
    foreign = DataError(f"{src}: expected {WNIDS} in it, found none: is this the published layout?")
    members: dict[PurePosixPath, bytes | None] = {}
    with _named_failure(src):
        if src.is_dir() and not (src / WNIDS).is_file():  # one named by mistake may be a whole disk: don't walk it
            raise foreign
        for name, opener in _members(src, None):
            path = PurePosixPath(name)
            members[path] = _read_member(name, opener) if path.name in LISTS else None
    roots = [path.parent for path in members if path.name == WNIDS]
    if not roots:
        raise foreign
    root = min(roots, key=lambda root: (len(root.parts), str(root)))
    below = {path.relative_to(root).as_posix(): data for path, data in members.items() if path.is_relative_to(root)}
    return _Source(src, root, tuple(below), {name: data for name, data in below.items() if data is not None})


def _members(src: Path, wanted: Collection[str] | None) -> Iterator[tuple[str, Opener]]:
    """Yield the regular files of a folder, a tar or a zip, or the wanted ones: the path, and what opens the file.

    Nothing is ever written to a path that an archive names, so an archive can't write outside anything; links and
    devices in it are left out.
    """
    if src.is_dir():
        for name in _walk(src) if wanted is None else wanted:
            yield name, partial(_open, src / name)
    elif zipfile.is_zipfile(src):
        with zipfile.ZipFile(src) as archive:
            for entry in archive.infolist():
                name = PurePosixPath(entry.filename).as_posix()
                regular = not entry.is_dir() and not stat.S_ISLNK(entry.external_attr >> 16)
                if regular and (wanted is None or name in wanted):
                    yield name, partial(archive.open, entry)
    elif tarfile.is_tarfile(src):
        with tarfile.open(src) as packed:
            for member in packed:
                name = PurePosixPath(member.name).as_posix()
                if member.isreg() and (wanted is None or name in wanted):
                    yield name, partial(packed.extractfile, member)
    else:
        raise DataError(f"{src}: expected a folder, a tar or a zip; found a file that is none of them")


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _walk(src: Path) -> Iterator[str]:
    for folder in find_folders(src):
        yield from (path.relative_to(src).as_posix() for path in list_folder(folder)[1] if path.is_file())


def _read_member(name: str, opener: Opener) -> bytes:
    stream = opener()
    if stream is None:  # tarfile's answer for what is no regular file, and those were left out
        return b""
    with stream:
        data = stream.read(MAX_MEMBER_BYTES + 1)
    if len(data) > MAX_MEMBER_BYTES:
        raise DataError(f"{name}: expected an image or a list of at most {MAX_MEMBER_BYTES >> 20} MiB, found more")
    return data


@contextmanager
def _named_failure(src: Path) -> Iterator[None]:
    try:
        yield
    except ARCHIVE_FAULTS as error:
        raise DataError(f"{src}: damaged, or not an archive that can be read: {error}; download it again") from None
    except OSError as error:
        raise DataError(f"{src}: can't be read: {error.strerror or error}") from None


def _read_wnids(text: str, where: str) -> list[str]:
    wnids = list(dict.fromkeys(text.split()))
    for wnid in wnids:
        if not WNID.fullmatch(wnid):
            raise DataError(f"{where}: expected one wnid a line, such as n01443537; found {wnid[:40]!r}")
    if not wnids:
        raise DataError(f"{where}: expected one wnid a line, found none")
    return wnids


def _choose(known: list[str], classes: int | None, wnids: Path | None) -> list[str]:
    """Return the wnids of the classes asked for, in the order of wnids.txt or of the file that names them."""
    if classes is not None:
        if not 1 <= classes <= len(known):
            raise UsageError(f"--classes must lie between 1 and the {len(known)} of {WNIDS}, found {classes}")
        return known[:classes]
    if wnids is None:
        return known
    try:
        chosen = _read_wnids(wnids.read_text(encoding="utf-8"), str(wnids))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{wnids}: expected a text file of wnids, one a line: {error}") from None
    unknown = [wnid for wnid in chosen if wnid not in set(known)]
    if unknown:
        raise DataError(f"{wnids}: not among the {len(known)} classes of {WNIDS}: {', '.join(unknown[:5])}")
    return chosen


def _class_names(source: _Source, known: list[str]) -> dict[str, str]:
    """Name each wnid's folder; the names depend on all of wnids.txt, so a larger choice of classes renames nothing."""
    words = dict(line.split("\t", 1) for line in source.text(WORDS).splitlines() if "\t" in line)
    nameless = [wnid for wnid in known if wnid not in words]
    if nameless:
        raise DataError(f"{source.src}: {WORDS} has no name for {', '.join(nameless[:5])} of {WNIDS}")
    names = {wnid: _folder_name(words[wnid]) or wnid for wnid in known}
    shared = Counter(name.casefold() for name in names.values())  # some file systems don't tell upper from lower case
    return {wnid: f"{name}_{wnid}" if shared[name.casefold()] > 1 else name for wnid, name in names.items()}


def _folder_name(words: str) -> str:
    first = words.split(",", 1)[0]
    return re.sub(r"[^\w.'-]+", "_", first).strip("._")


def _plan(source: _Source, chosen: list[str], names: dict[str, str]) -> dict[str, str]:
    """Map the source path of every image that is to be written to its ``SPLIT/CLASS/NAME``."""
    plan: dict[str, str] = {}
    counts = Counter[str]()
    for original in source.names:
        path = PurePosixPath(original)
        if len(path.parts) != 4 or path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        split, wnid, folder, _ = path.parts
        if split == "train" and folder == "images" and wnid in chosen:
            plan[original] = f"train/{names[wnid]}/{path.name}"
            counts[wnid] += 1
    empty = [wnid for wnid in chosen if not counts[wnid]]
    if empty:
        raise DataError(f"{source.src}: no images in train/WNID/images/ of {', '.join(empty[:5])}")
    return plan | _plan_validation(source, chosen, names)


def _plan_validation(source: _Source, chosen: list[str], names: dict[str, str]) -> dict[str, str]:
    present = set(source.names)
    plan: dict[str, str] = {}
    for number, line in enumerate(source.text(ANNOTATIONS).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{source.src}: {ANNOTATIONS}, line {number}"
        file, tab, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not tab or wnid not in names:
            raise DataError(f"{where}: expected file, tab, a wnid of {WNIDS}; found {line[:60]!r}")
        original = f"val/images/{file}"
        if original not in present or PurePosixPath(file).name != file:
            raise DataError(f"{where}: {file[:60]!r} is not in val/images/: download the data set again")
        if wnid in chosen:
            plan[original] = f"val/{names[wnid]}/{file}"
    return plan
