"""Reads a published data set as it was downloaded, a folder, a tar or a zip, without unpacking it first."""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from ..runtime.errors import DataError

__all__ = ["MAX_MEMBER_BYTES", "Published", "PublishedFolder", "PublishedTar", "PublishedZip", "open_published"]

MAX_MEMBER_BYTES = 64 * 2**20  # for an image or a list of a published data set; more is a bomb, or not an image
# zipfile raises RuntimeError for an encrypted member, and NotImplementedError, its subclass, for an unknown compression
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
Reader = Callable[[], bytes]


class Published(ABC):
    """Gives the regular files of a data set by their paths relative to its root.

    Nothing is ever written to a path that an archive names, so an archive can't write outside anything; links and
    devices in it are left out.

    Args:
        src: the folder or archive.
        marker: the name of a file at the data set's root; in an archive the root is where it lies least deep.
        keep: names of files whose content is read together with the index, ``marker`` included.

    Raises:
        DataError: ``src`` is damaged, has a member over ``MAX_MEMBER_BYTES``, or has no ``marker``.
    """

    def __init__(self, src: Path, marker: str, keep: Collection[str]) -> None:
        self.src = src
        found: dict[str, bytes | None] = {}
        with _named_failure(src):
            for name, read in self._members(None):
                found[name] = _checked(name, read()) if PurePosixPath(name).name in keep else None
        roots = [PurePosixPath(name).parent for name in found if PurePosixPath(name).name == marker]
        if not roots:
            raise DataError(f"{src}: expected {marker} in it, found none: is this the published layout?")
        self.root = min(roots, key=lambda root: (len(root.parts), str(root)))
        inside = {name: data for name, data in found.items() if PurePosixPath(name).is_relative_to(self.root)}
        contents = {PurePosixPath(name).relative_to(self.root).as_posix(): data for name, data in inside.items()}
        self.names: tuple[str, ...] = tuple(contents)
        self.kept: dict[str, bytes] = {name: data for name, data in contents.items() if data is not None}

    def text(self, name: str) -> str:
        """Return the text of a file that was named in ``keep``.

        Raises:
            DataError: the file is not there, or not UTF-8.
        """
        try:
            return self.kept[name].decode()
        except KeyError:
            raise DataError(f"{self.src}: expected {name} in it, found none: is this the published layout?") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{self.src}: {name} is not UTF-8 text: {error.reason} at byte {error.start}") from None

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the named files with their bytes, in one pass, in the order in which they are stored.

        Raises:
            DataError: the data set is damaged, or a file is over ``MAX_MEMBER_BYTES``.
        """
        stored = {(self.root / name).as_posix(): name for name in names}
        with _named_failure(self.src):
            for member, read in self._members(stored):
                yield stored[member], _checked(member, read())

    @abstractmethod
    def _members(self, wanted: Collection[str] | None) -> Iterator[tuple[str, Reader]]:
        """Yield the regular files, or the wanted ones: path, and a call that reads MAX_MEMBER_BYTES + 1 at most."""


class PublishedFolder(Published):
    """A data set that lies unpacked in a folder; its root is that folder."""

    def _members(self, wanted: Collection[str] | None) -> Iterator[tuple[str, Reader]]:
        for name in self._walk() if wanted is None else wanted:
            yield name, partial(_first_bytes, partial(_open, self.src / name))

    def _walk(self) -> Iterator[str]:
        for folder, _, files in os.walk(self.src, followlinks=True):
            for file in files:
                path = Path(folder) / file
                if path.is_file():
                    yield path.relative_to(self.src).as_posix()


class PublishedTar(Published):
    """A data set in a tar, compressed or not."""

    def _members(self, wanted: Collection[str] | None) -> Iterator[tuple[str, Reader]]:
        with tarfile.open(self.src) as archive:
            for member in archive:
                name = PurePosixPath(member.name).as_posix()
                if not member.isreg() or (wanted is not None and name not in wanted):
                    continue
                yield name, partial(_first_bytes, partial(archive.extractfile, member))


class PublishedZip(Published):
    """A data set in a zip."""

    def _members(self, wanted: Collection[str] | None) -> Iterator[tuple[str, Reader]]:
        with zipfile.ZipFile(self.src) as archive:
            for member in archive.infolist():
                name = PurePosixPath(member.filename).as_posix()
                is_link = stat.S_ISLNK(member.external_attr >> 16)
                if member.is_dir() or is_link or (wanted is not None and name not in wanted):
                    continue
                yield name, partial(_first_bytes, partial(archive.open, member))


def open_published(src: Path, marker: str, keep: Collection[str]) -> Published:
    """Open a published data set for reading: a folder, a tar (compressed or not) or a zip, told by its content.

    Args:
        src: the folder or archive.
        marker: the name of a file at the data set's root.
        keep: names of files whose content ``Published.text`` will be asked for.

    Raises:
        DataError: there is no such file, it is none of these kinds, is damaged, or has no ``marker``.
    """
    if src.is_dir():
        if not (src / marker).is_file():
            raise DataError(f"{src}: expected {marker} in it, found none: is this the published layout?")
        return PublishedFolder(src, marker, keep)
    if not src.exists():
        raise DataError(f"{src}: no such file or folder; expected a published data set: a folder, .tar.gz or .zip")
    with _named_failure(src):
        if zipfile.is_zipfile(src):
            return PublishedZip(src, marker, keep)
        if tarfile.is_tarfile(src):
            return PublishedTar(src, marker, keep)
    raise DataError(f"{src}: expected a folder, a tar or a zip; found a file that is none of them")


def _first_bytes(opener: Callable[[], IO[bytes] | None]) -> bytes:
    stream = opener()
    if stream is None:  # tarfile's answer for what is no regular file, and those were left out
        return b""
    with stream:
        return stream.read(MAX_MEMBER_BYTES + 1)


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _checked(name: str, data: bytes) -> bytes:
    if len(data) > MAX_MEMBER_BYTES:
        raise DataError(f"{name}: expected an image or a list of at most {MAX_MEMBER_BYTES >> 20} MiB, found more")
    return data


@contextmanager
def _named_failure(src: Path) -> Iterator[None]:
    """Turn what the archive libraries raise into one error that names the file."""
    try:
        yield
    except DAMAGED as error:
        raise DataError(f"{src}: damaged, or not an archive that can be read: {error}; download it again") from None
    except OSError as error:
        raise DataError(f"{src}: can't be read: {error.strerror or error}") from None
