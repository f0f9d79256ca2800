"""Reads files by their addresses, s3://bucket/name and the like; this is the only importer of fsspec."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

from ..errors import ImageError, SourceError, UsageError
from ..preprocess import IMAGE_SUFFIXES, MAX_FILE_SIZE
from ..sources.media_files import is_debris, natural_order
from ..sources.names import display_name

try:
    import fsspec
except ImportError as error:
    raise UsageError(
        f"expected fsspec, which reads addresses, found none that can be imported ({error}): "
        "pip install 'hybrid-edge[scale]'"
    ) from error

T = TypeVar("T")
WAITS = (1.0, 4.0)  # seconds before a store that failed is asked again
OF_THE_FILE = (FileNotFoundError, PermissionError, IsADirectoryError)


def read_address(url: str) -> bytes:
    """Read the bytes of an image by its address.

    Raises:
        ImageError: the file is not there, may not be read, or is too large.
        SourceError: the store failed several times; images that it has must not become unreadable ones.
    """

    def read() -> bytes:
        system, path = _open_system(url)
        return bytes(system.cat_file(path, start=0, end=MAX_FILE_SIZE + 1))

    try:
        data = _patiently(read, url)
    except OF_THE_FILE as error:
        raise ImageError(f"{url}: can't be read: {error}") from None
    if len(data) > MAX_FILE_SIZE:
        raise ImageError(f"{url}: expected at most {MAX_FILE_SIZE} bytes, found more")
    return data


def open_address(url: str) -> IO[bytes]:
    """Open a file by its address, to be read in order; OSError says that it is not there or may not be read.

    Opening and reading raise SourceError where the store failed several times, which is no damage of the file's.
    """
    system, path = _open_system(url)
    return io.BufferedReader(_PatientFile(_patiently(lambda: system.open(path, "rb"), url), url))


class _PatientFile(io.RawIOBase):
    """A store's file, each read of which is tried again where the store failed."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        super().__init__()
        self._file, self._url, self._place = file, url, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += self._file.seek(0, io.SEEK_END)
        self._place = offset + (self._place if whence == io.SEEK_CUR else 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        def read() -> bytes:
            self._file.seek(self._place)
            return self._file.read(len(buffer))

        data = _patiently(read, self._url)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def state_of(url: str) -> str:
    """Return what changes when the file at an address does: its size and the store's own mark of a version."""
    system, path = _open_system(url)
    facts = _patiently(lambda: system.info(path), url)
    marks = (facts.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated"))
    return f"{facts.get('size')} {next((mark for mark in marks if mark), '')}".strip()


def find_addresses(url: str, left_out: Counter[str], also: tuple[str, ...]) -> Iterator[str]:
    """Yield an address, or, where it is a folder's, the images below it and the files that end in one of ``also``.

    An address with ``*`` stands for those that match. A folder's names are in memory at a time; what else it holds is
    counted in ``left_out`` by its suffix.
    """
    system, path = _open_system(url)
    if "*" in path:
        found = _patiently(lambda: system.glob(path), url)
        yield from map(str, map(system.unstrip_protocol, sorted(found, key=natural_order)))
        return
    if not _patiently(lambda: system.isdir(path), url):
        yield url
        return
    for folder, folders, files in system.walk(path, on_error="raise"):
        folders.sort(key=natural_order)
        folders[:] = [name for name in folders if not is_debris(name)]
        for name in sorted(files, key=natural_order):
            suffix = f".{name.rpartition('.')[2].lower()}" if "." in name else "without a suffix"
            if is_debris(name) or not (suffix in IMAGE_SUFFIXES or name.lower().endswith(also)):
                left_out[suffix] += 1
            else:
                yield str(system.unstrip_protocol(f"{folder.rstrip('/')}/{name}"))


def _open_system(url: str) -> tuple[Any, str]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # the scheme's own library is missing, or nobody knows the scheme
        raise UsageError(f"{display_name(url)}: expected an address that fsspec reads, found: {error}") from None
    return system, path


def _patiently(call: Callable[[], T], url: str) -> T:
    for wait in WAITS:
        try:
            return call()
        except OF_THE_FILE:  # noqa: PERF203  # tried again, not looped over
            raise
        except Exception:  # each store's library has errors of its own
            time.sleep(wait)
    try:
        return call()
    except OF_THE_FILE:
        raise
    except Exception as error:
        raise SourceError(
            f"{display_name(url)}: the store failed {len(WAITS) + 1} times, at last with {type(error).__name__}: "
            f"{error}; finished parts stay: mend that and start again"
        ) from error
