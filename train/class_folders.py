"""Class folders are written one whole file at a time, so that the next run can complete an interrupted one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..runtime.errors import DataError

__all__ = ["ClassFolders", "Prepared"]

PART_SUFFIX = ".part"


@dataclass(frozen=True)
class Prepared:
    """The class folders that were made: images of each class and split, and how many were written or there already."""

    dst: Path
    counts: dict[str, Counter[str]]  # split -> class -> images
    written: int
    kept: int


@dataclass
class ClassFolders:
    """Writes ``DST/SPLIT/CLASS/NAME`` for a set of files that is known beforehand.

    A file is written under a hidden temporary name and renamed, never in place: a link made by an earlier run is
    replaced, not written through. A file already there with the same bytes is kept.

    Args:
        dst: the folder, which is created when the first file is written.
        planned: every ``SPLIT/CLASS/NAME`` that will be written.

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
        with _readable_failure(self.dst):
            self._refuse_foreign()

    def write(self, name: str, data: bytes) -> None:
        """Write one planned file, unless it is there with these bytes.

        Raises:
            DataError: the file can't be written.
        """
        path = self.dst / name
        with _readable_failure(path):
            if _holds(path, data):
                self.kept += 1
                return
            part = _part(path)
            part.write_bytes(data)
            part.replace(path)
        self.written += 1

    def link(self, name: str, source: Path) -> None:
        """Link one planned file to its source, by a hard link where possible, else a symbolic one.

        Raises:
            DataError: the file can't be linked.
        """
        path = self.dst / name
        with _readable_failure(path):
            if path.exists() and path.samefile(source):
                self.kept += 1
                return
            part = _part(path)
            try:
                os.link(source, part)
            except OSError:  # another file system, or one without hard links
                part.symlink_to(source.resolve())
            part.replace(path)
        self.written += 1

    def summary(self) -> Prepared:
        """Count what the folder holds once every planned file is written."""
        counts: dict[str, Counter[str]] = {}
        for name in self.planned:
            split, label, _ = PurePosixPath(name).parts
            counts.setdefault(split, Counter())[label] += 1
        return Prepared(self.dst, counts, self.written, self.kept)

    def _refuse_foreign(self) -> None:
        """Refuse a folder with other files, which would be trained on; remove our own temporary files."""
        planned = set(self.planned)
        parts = {str(_part_name(PurePosixPath(name))) for name in planned}
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


def _part_name(path: PurePosixPath) -> PurePosixPath:
    return path.with_name(f".{path.name}{PART_SUFFIX}")


def _part(path: Path) -> Path:
    """Return a file's temporary path, at which nothing is any more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}{PART_SUFFIX}")
    part.unlink(missing_ok=True)  # it may be a link to the source, left by a killed run: never write through it
    return part


def _holds(path: Path, data: bytes) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    return path.stat().st_size == len(data) and path.read_bytes() == data


@contextmanager
def _readable_failure(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: can't be written: {error.strerror or error}") from None
