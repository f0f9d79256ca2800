"""Class folders are found with their images, and written, one whole file at a time.

A folder whose name is a label holds the images of that class, in sub-folders too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..runtime.errors import DataError
from ..runtime.preprocess import IMAGE_SUFFIXES

Classes = dict[str, list[Path]]  # label -> its images, in the order of their paths


def find_roots(data: Path) -> tuple[Path, Path | None]:
    """Return the folders of the training and of the validation classes; None where validation has to be split off."""
    if not data.exists():
        raise DataError(f"{data}: no such folder; expected a folder of class folders with images")
    if not data.is_dir():
        raise DataError(f"{data}: expected a folder of class folders with images, found a file")
    train, val = data / "train", data / "val"
    if train.is_dir() and val.is_dir():
        return train, val
    if train.is_dir() and not _images_among(_entries(train)):  # with images in it, it is a class that is called "train"
        return train, None
    if val.is_dir() and not _images_among(_entries(val)):
        raise DataError(
            f"{data}: there is a val/ folder and no train/ beside it; expected train/CLASS/* and val/CLASS/*"
        )
    return data, None


def find_classes(root: Path) -> Classes:
    """Return the classes under a folder in the order of their labels, each with its images, sub-folders included.

    Hidden entries and files of other kinds are left out; DataError says why nothing can be trained on.
    """
    entries = _entries(root)
    folders = sorted((entry for entry in entries if entry.is_dir()), key=lambda folder: folder.name)
    if not folders:
        loose = len(_images_among(entries))
        found = f"{loose} images beside each other" if loose else "none"
        raise DataError(f"{root}: expected one folder for each class, found {found}; put each class in its own folder")
    classes: Classes = {}
    for folder in folders:
        if not folder.name.isprintable():  # a name that is not UTF-8, or a line break: no label for JSON
            raise DataError(f"{root}: the folder {folder.name!r} can't be a label: rename it to printable UTF-8")
        classes[folder.name] = sorted(_images_below(folder))
        if not classes[folder.name]:
            raise DataError(
                f"class {folder.name!r} is empty: {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "add images or remove the folder"
            )
    return classes


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: can't be listed: {error.strerror or error}") from None


def _images_among(entries: Iterable[Path]) -> list[Path]:
    # a broken link counts, so that it is reported as unreadable; a pipe or socket does not: it would block its reader
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    return [image for image in images if image.is_file() or (image.is_symlink() and not image.exists())]


def _images_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the images in a folder and its sub-folders; links to folders are followed, except back up."""
    here = os.path.realpath(folder)
    if here in above:
        return
    entries = _entries(folder)
    yield from _images_among(entries)
    for entry in entries:
        if entry.is_dir():
            yield from _images_below(entry, above | {here})


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
