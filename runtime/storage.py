"""Everything kept on disk: files are replaced as a whole, folders are locked, and one cache folder is found.

A file is written beside its place and renamed into it, so that a reader finds the old one or the new one, whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import UsageError


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which replaces it when the block ends well and is removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=f".tmp{suffix}", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # mkstemp makes it private; a result is as public as any other file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, which gets that name when the block ends well and is removed otherwise.

    What a kill left of an earlier one is removed first.

    Raises:
        UsageError: something is at ``path`` already that is not an empty folder.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path}: expected a new folder, found something of that name; choose another, or remove it")
    partial = path.with_name(f".{path.name}.writing")
    with locked(path.parent):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            yield partial
            for file in partial.rglob("*"):
                flush(file)
            partial.replace(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def flush(path: Path) -> None:
    """See that a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(option: str, path: Path, suffix: str = "") -> None:
    """Refuse a file that could not be written in the end, before the work that would be lost.

    ``option`` is what asked for the file, as it is written (``--save``); ``suffix`` is what the name has to end in.

    Raises:
        UsageError: the name ends otherwise or is a folder's, or the folder is not there or may not be written to.
    """
    if suffix and path.suffix.lower() != suffix:
        raise UsageError(f"{option} {path}: expected a name that ends in {suffix}, found {path.suffix or 'no suffix'}")
    if os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises where a folder above may not be entered
        raise UsageError(f"{option} {path}: expected a file to write, found a folder of that name")
    if not os.path.isdir(path.parent):  # noqa: PTH112
        raise UsageError(
            f"{option} {path}: expected the folder {path.parent} to exist, found none that may be entered; create it"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"{option} {path}: expected to be allowed to write into {path.parent}, found that it is not; choose another"
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file's bytes, replacing the old file as a whole."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, replacing the old one as a whole.

    A file name's byte that is not UTF-8 is written as an escape, which JSON reads back as the same name.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write a file of indented JSON, replacing the old one as a whole."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def free_path(path: Path) -> Path:
    """Return a path that nothing has: the given one or, where it is taken, with a number behind its stem."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def sweep(folder: Path, name: str) -> None:
    """Remove the temporary files that a kill inside ``replacing`` left of the files ``name``, which may hold ``*``."""
    for partial in folder.glob(f".{name}-*.tmp*"):
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of a file, which is made where there is none, or of a folder, for the time of the block.

    A process that is killed lets go of it. The file stays: if it were removed, two processes could each hold a lock of
    that name. ``on_wait`` is called once before a lock of another process is waited for; an error that it raises ends
    the waiting. Raises OSError where the file can't be made, or the disk knows no locks.
    """
    descriptor = _open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    if path.is_dir():
        return os.open(path, os.O_RDONLY)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)  # a file of another user can be locked, and waited for, as well


def cache_dir() -> Path:
    """Return the path of the cache folder, which may not exist yet.

    It is ``$HYBRID_EDGE_CACHE``, else ``$XDG_CACHE_HOME/hybrid-edge``, else ``~/.cache/hybrid-edge``. A user without
    a home, whom neither HOME nor /etc/passwd knows, as in many containers, has a temporary folder of their own.

    Raises:
        UsageError: HYBRID_EDGE_CACHE names a home that is not known, or the temporary folder is another user's.
    """
    chosen = os.environ.get("HYBRID_EDGE_CACHE", "")
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        # the XDG specification: a relative value is to be ignored
        return (base if base.is_absolute() else Path.home() / ".cache") / "hybrid-edge"
    except RuntimeError as error:
        if chosen:
            raise UsageError(
                f"HYBRID_EDGE_CACHE={chosen}: expected a folder, found an unknown home; write the whole path"
            ) from error
        return _own_temporary_folder()


def _own_temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"hybrid-edge-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077:  # others can make what engines are taken from
        raise UsageError(
            f"{folder}: expected a folder that is this user's alone, found one that others may write to; "
            "name a cache folder with HYBRID_EDGE_CACHE"
        )
    return folder


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
