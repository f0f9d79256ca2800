"""Files are written beside their place and renamed into it, so that a reader finds the old or the new one, whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cache_dir", "file_sha256", "replacing"]


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


def cache_dir() -> Path:
    """Return the path of the cache folder, which may not exist yet.

    It is ``$HYBRID_EDGE_CACHE``, else ``$XDG_CACHE_HOME/hybrid-edge``, else ``~/.cache/hybrid-edge``.
    """
    if chosen := os.environ.get("HYBRID_EDGE_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification: a relative value is to be ignored
        base = Path.home() / ".cache"
    return base / "hybrid-edge"


CHUNK = 2**20


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: the file can't be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
