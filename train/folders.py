"""Finds on the disk which folders are classes, and which files are their images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..runtime.errors import DataError
from ..runtime.preprocess import IMAGE_SUFFIXES

__all__ = ["Classes", "find_classes", "find_roots"]

Classes = dict[str, list[Path]]  # label -> its images, in the order of their paths


def find_roots(data: Path) -> tuple[Path, Path | None]:
    """Return the folders of the training and of the validation classes; None where validation has to be split off.

    Raises:
        DataError: there is no such folder, or there is ``val/`` without ``train/``.
    """
    if not data.exists():
        raise DataError(f"{data}: no such folder; expected a folder of class folders with images")
    if not data.is_dir():
        raise DataError(f"{data}: expected a folder of class folders with images, found a file")
    train, val = data / "train", data / "val"
    if train.is_dir() and val.is_dir():
        return train, val
    if train.is_dir() and not _direct_images(train):  # with images in it, it is a class that is called "train"
        return train, None
    if val.is_dir() and not _direct_images(val):
        raise DataError(
            f"{data}: there is a val/ folder and no train/ beside it; expected train/CLASS/* and val/CLASS/*"
        )
    return data, None


def find_classes(root: Path) -> Classes:
    """Return the classes under a folder in the order of their labels, each with its images, sub-folders included.

    Hidden entries and files of other kinds are left out.

    Raises:
        DataError: there are no class folders, a class has no images, or a folder's name can't be a label, or it can't
            be listed.
    """
    folders = sorted((f for f in _entries(root) if f.is_dir()), key=lambda f: f.name)
    if not folders:
        loose = len(_direct_images(root))
        found = f"{loose} images beside each other" if loose else "none"
        raise DataError(f"{root}: expected one folder for each class, found {found}; put each class in its own folder")
    classes: Classes = {}
    for folder in folders:
        if (
            not folder.name.isprintable()
        ):  # a lone surrogate (a name that is not UTF-8), a line break: no label for JSON
            raise DataError(f"{root}: the folder {folder.name!r} can't be a label: rename it to printable UTF-8")
        classes[folder.name] = sorted(_images(folder))
        if not classes[folder.name]:
            raise DataError(
                f"class {folder.name!r} is empty: {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "add images or remove the folder"
            )
    return classes


def _entries(folder: Path) -> list[Path]:
    """List what a folder holds, without hidden entries."""
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: can't be listed: {error.strerror or error}") from None


def _only_images(entries: Iterable[Path]) -> list[Path]:
    # a broken link counts, so that it is reported as unreadable; a pipe or socket does not: it would block its reader
    return [e for e in entries if e.suffix.lower() in IMAGE_SUFFIXES and (e.is_file() or _is_broken_link(e))]


def _is_broken_link(entry: Path) -> bool:
    return entry.is_symlink() and not entry.exists()


def _direct_images(folder: Path) -> list[Path]:
    return _only_images(_entries(folder))


def _images(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the images in a folder and its sub-folders; links to folders are followed, except back up."""
    here = os.path.realpath(folder)
    if here in above:
        return
    entries = _entries(folder)
    yield from _only_images(entries)
    for entry in entries:
        if entry.is_dir():
            yield from _images(entry, above | {here})
