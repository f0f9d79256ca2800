"""Gives a chunk's images, one by one: the files that it names, or the members of a tar, which is never unpacked."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..bundle import TAR_FAULTS
from ..errors import ImageError
from ..preprocess import IMAGE_SUFFIXES, MAX_FILE_SIZE, read_image_file
from ..sources.media_files import is_debris
from .chunks import Chunk, is_address

DAMAGE = (*TAR_FAULTS, gzip.BadGzipFile)


@dataclass(frozen=True)
class Content:
    """One image's name, and either its tar's member, or the reason why it can't be read, or neither, for a file."""

    name: str
    member: tarfile.TarInfo | None = None
    error: str | None = None


class ChunkContents:
    """The contents of a chunk, to be iterated once, in order; use it as a context manager, which closes the tar.

    A tar that ends early or is damaged gives the members before that place, and then one content of the tar's own name
    whose ``error`` says so.
    """

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._open = ExitStack()
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ChunkContents:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[Content]:
        if self._chunk.tar is None:
            return (Content(name, error=error) for name, error in self._chunk.names)
        return self._members(self._chunk.tar)

    def load(self, content: Content) -> bytes | None:
        """Return the bytes of a tar's member, or None for any other content; one thread at a time.

        Raises:
            ImageError: the tar ends within the member or is damaged there, or the member is too large.
        """
        if content.member is None or self._tar is None:
            return None
        if content.member.size > MAX_FILE_SIZE:
            raise ImageError(f"{content.name}: expected at most {MAX_FILE_SIZE} bytes, found {content.member.size}")
        try:
            file = self._tar.extractfile(content.member)
            return b"" if file is None else file.read()
        except (OSError, *DAMAGE) as error:
            raise ImageError(f"{content.name}: the tar can't be read here: {error}") from None

    def _members(self, path: str) -> Iterator[Content]:
        try:
            file = self._opened(path)
            self._tar = tar = self._open.enter_context(tarfile.open(fileobj=file, mode="r:"))  # noqa: SIM115
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else they would all stay in memory
                inner = member.name.rpartition("/")[2]
                if member.isreg() and not is_debris(inner) and os.path.splitext(inner)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                    yield Content(f"{path}/{member.name}", member)
            fault = _fault_at_end(file, tar.offset)
        except (OSError, *DAMAGE) as error:
            fault = f"the tar can't be read to its end: {error}"
        if fault:
            yield Content(path, error=fault)

    def _opened(self, path: str) -> IO[bytes]:
        if is_address(path):
            from .remote import open_address  # noqa: PLC0415  # fsspec only where there is an address

            file = open_address(path)
        else:
            file = Path(path).open("rb")  # noqa: SIM115  # closed with the contents
        self._open.callback(file.close)
        if not path.lower().endswith("gz"):
            return file
        unzipped: IO[bytes] = gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
        return unzipped


def _fault_at_end(file: IO[bytes], offset: int) -> str | None:
    """Return what is wrong where tarfile stopped: at a damaged header, and at a lost end, it does so in silence."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block == tarfile.NUL * tarfile.BLOCKSIZE:
        return None
    if not block:
        return f"the tar ends at byte {offset} without the empty block that closes it: it was cut short"
    return f"the tar is damaged at byte {offset}: expected the header of a member, found something else"


def read_content(content: Content, data: bytes | None) -> bytes:
    """Return an image's bytes: ``data``, those of a tar's member, or what its file or address holds.

    Raises:
        ImageError: nothing can be read there.
        SourceError: a store failed.
    """
    if data is not None:
        return data
    if is_address(content.name):
        from .remote import read_address  # noqa: PLC0415  # fsspec only where there is an address

        return read_address(content.name)
    return read_image_file(content.name)


def tar_state(path: str | None) -> str:
    """Return what changes when a tar does, size and time; nothing where there is none. Its bytes are not read."""
    if path is None:
        return ""
    if is_address(path):
        from .remote import state_of  # noqa: PLC0415  # fsspec only where there is an address

        with suppress(FileNotFoundError, PermissionError):
            return state_of(path)
        return ""
    with suppress(OSError):
        facts = Path(path).stat()
        return f"{facts.st_size} {facts.st_mtime_ns}"
    return ""
