"""Remove the places of this machine from a report's texts: absolute paths become names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

__all__ = ["command_line", "without_places"]

# after any of these characters a slash is part of a relative path, an address or "images/s", not an absolute path
PATH = re.compile(r"""(?<![\w.~/)\]-])/[^\s/:;,'"`()<>\[\]{}|][^\s:;,'"`()<>\[\]{}|]*""")
WORD = re.compile(r"([^/]*=)?(/.+)", re.DOTALL)  # --json=/home/me/a.json: the whole word is one path, with its spaces


def without_places(text: str) -> str:
    """Return a text, an error's message say, in which each absolute path is reduced to its name."""
    return PATH.sub(lambda found: PurePosixPath(found.group()).name, text)


def command_line(words: Iterable[str]) -> str:
    """Return a command as typed, its absolute paths reduced to their names, those after ``=`` too."""
    return shlex.join(map(_word, words))


def _word(word: str) -> str:
    whole = WORD.fullmatch(word)
    return f"{whole[1] or ''}{PurePosixPath(whole[2]).name}" if whole else without_places(word)
