"""A run folder's files are written whole, and files that a kill left unfinished are swept."""

from __future__ import annotations

from pathlib import Path

from ..runtime.storage import replacing

__all__ = ["replacing", "sweep", "write_text"]


def sweep(folder: Path, name: str) -> None:
    """Remove the temporary files that a kill inside ``replacing`` left of the files ``name``, which may hold ``*``."""
    for partial in folder.glob(f".{name}-*.tmp*"):
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, replacing the old one as a whole."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
