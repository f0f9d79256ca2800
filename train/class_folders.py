"""Class folders are found with their images, and written, one whole file at a time.

A folder whose name is a label holds the images of that class, in sub-folders too.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..runtime.errors import DataError
from ..runtime.sources.media_files import describe_left_out, find_media, is_wanted, leads_to_folder, visible_entries

Classes = dict[str, list[Path]]  # label -> its images, in the order of their paths


def list_folder(root: Path, left_out: Counter[str] | None = None) -> tuple[list[Path], list[Path]]:
    """Return a folder's visible sub-folders and files, both in natural order; DataError where it can't be read."""
    try:
        entries = visible_entries(root, left_out)
    except OSError as error:
        raise DataError(f"{root}: the folder can't be read: {error.strerror or error}") from None
    folders = [root / entry.name for entry in entries if leads_to_folder(entry)]
    return folders, [root / entry.name for entry in entries if not leads_to_folder(entry)]


def find_classes(root: Path, left_out: Counter[str] | None = None) -> Classes:
    """Return the classes under a folder in the order of their labels, each with its images, sub-folders included.

    Labels are the folders' names in Unicode's NFC, as macOS may write what Linux writes in another form. ``left_out``
    counts by suffix the files that are no images; DataError says why nothing can be trained on.
    """
    counted = Counter[str]() if left_out is None else left_out
    folders, files = list_folder(root, counted)
    loose = [file for file in files if is_wanted(file, counted, videos=False)]
    if not folders:
        found = f"{len(loose)} images beside each other" if loose else "none"
        raise DataError(
            f"{root}: expected one folder for each class, found {found}; put each class in its own folder"
            + (", or name the classes in a CSV: --labels FILE.csv" if loose else "")
        )
    if loose:
        counted["images beside the class folders"] += len(loose)
    named = _by_label(root, sorted(folders))
    return {label: _class_images(label, named[label], counted) for label in sorted(named)}


def _by_label(root: Path, folders: Iterable[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for folder in folders:
        label = unicodedata.normalize("NFC", folder.name)
        if not label.isprintable():  # a name that is not UTF-8, or a line break: no label for JSON
            raise DataError(f"{root}: the folder {folder.name!r} can't be a label: rename it to printable UTF-8")
        if label in named:
            pair = f"{named[label].name!a} and {folder.name!a}"
            raise DataError(f"{root}: two folders are called {label!r}, in two forms of Unicode ({pair}): merge them")
        named[label] = folder
    return named


def _class_images(label: str, folder: Path, left_out: Counter[str]) -> list[Path]:
    before = left_out.copy()
    images = []
    for found in find_media(folder, left_out, videos=False):
        if not isinstance(found, Path):
            raise DataError(f"{found.source}: {found.error}")
        images.append(found)
    if not images:
        besides = describe_left_out(left_out - before)
        raise DataError(
            f"class {label!r} is empty: {folder} holds no image that OpenCV reads{besides and f' ({besides})'}; "
            "add images or remove the folder"
        )
    return sorted(images)


@dataclass(frozen=True)
class WrittenFolders:
    """The class folders that were made: images of each class and split, and how many were written or there already."""

    dst: Path
    counts: dict[str, Counter[str]]  # split -> class -> images
    written: int
    kept: int


@dataclass
class ClassFolderWriter:
    """Writes ``DST/SPLIT/CLASS/NAME`` for a set of files that is known beforehand, ``planned`` as ``SPLIT/CLASS/NAME``.

    A file is written under a hidden temporary name and renamed, never in place. A file already there with the same
    bytes is kept, so that the next call completes an interrupted one. ``storage.replacing`` would wait for the disk at
    each of 100,000 images.

    Raises:
        DataError: ``dst`` is a file, or holds anything but planned files.
    """

    dst: Path
    planned: Collection[str]
    written: int = field(default=0, init=False)
    kept: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.dst.exists() and not self.dst.is_dir():
            raise DataError(f"{self.dst}: expected a folder to write class folders to, found a file")
        with _named_failure(self.dst):
            self._refuse_foreign()

    def write(self, name: str, data: bytes) -> None:
        """Write one planned file, unless it is there with these bytes; DataError where it can't be written."""
        path = self.dst / name
        with _named_failure(path):
            if _holds(path, data):
                self.kept += 1
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(_part_name(path.name))
            part.write_bytes(data)
            part.replace(path)
        self.written += 1

    def summary(self) -> WrittenFolders:
        """Count what the folder holds once every planned file is written."""
        counts: dict[str, Counter[str]] = {}
        for name in self.planned:
            split, label, _ = PurePosixPath(name).parts
            counts.setdefault(split, Counter())[label] += 1
        return WrittenFolders(self.dst, counts, self.written, self.kept)

    def _refuse_foreign(self) -> None:
        """Refuse a folder with other files, which would be trained on; remove our own temporary files."""
        planned = set(self.planned)
        parts = {str(path.with_name(_part_name(path.name))) for path in map(PurePosixPath, planned)}
        for folder, _, files in os.walk(self.dst):
            for file in files:
                name = (Path(folder) / file).relative_to(self.dst).as_posix()
                if name in parts:
                    (self.dst / name).unlink()
                elif name not in planned and not file.startswith("."):
                    raise DataError(
                        f"{self.dst}: expected an empty folder, or one that this command made with the same choices; "
                        f"found {name} in it: choose another folder, or empty this one"
                    )


def _part_name(name: str) -> str:
    return f".{name}.part"


def _holds(path: Path, data: bytes) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    return path.stat().st_size == len(data) and path.read_bytes() == data


@contextmanager
def _named_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror or error}") from None
