"""Ask what is at a path, where one that is too long, forbidden or just gone counts as nothing and is no error."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["is_file", "is_folder", "is_there"]


def is_there(path: Path | str) -> bool:
    """Return whether anything is there, as far as it can be looked at; links are followed."""
    return _facts(path) is not None


def is_file(path: Path | str) -> bool:
    """Return whether a regular file is there, as far as it can be looked at; links are followed."""
    facts = _facts(path)
    return facts is not None and stat.S_ISREG(facts.st_mode)


def is_folder(path: Path | str) -> bool:
    """Return whether a folder is there, as far as it can be looked at; links are followed."""
    facts = _facts(path)
    return facts is not None and stat.S_ISDIR(facts.st_mode)


def _facts(path: Path | str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except (OSError, ValueError):  # ValueError: a null character
        return None
