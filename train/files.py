"""Files of a run folder: written whole, and swept when a kill left one unfinished."""

from __future__ import annotations

from pathlib import Path

from ..runtime.files import replacing

__all__ = ["replacing", "sweep", "write_text"]


def sweep(folder: Path, name: str) -> None:
    """Remove the temporary files that a kill inside ``replacing`` left of the files ``name``, which may hold ``*``."""
    for partial in folder.glob(f".{name}-*.tmp*"):
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
