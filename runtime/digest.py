"""A file's SHA-256 is computed in pieces: an artifact has hundreds of megabytes, a device may have little memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["file_sha256"]

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
