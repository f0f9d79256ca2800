"""Texts for a report without the places of this machine: absolute paths become names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

__all__ = ["command_line", "without_places"]

# a slash after anything that a relative path, an address or "images/s" has before its own begins no absolute path
PATH = re.compile(r"""(?<![\w.~/)\]-])/[^\s/:;,'"`()<>\[\]{}|][^\s:;,'"`()<>\[\]{}|]*""")
WORD = re.compile(r"([^/]*=)?(/.+)", re.DOTALL)  # --json=/home/me/a.json: all of a word is one path, spaces and all


def without_places(text: str) -> str:
    """A text, an error's message say, in which each absolute path is reduced to its name."""
    return PATH.sub(lambda found: PurePosixPath(found.group()).name, text)


def command_line(words: Iterable[str]) -> str:
    """A command as typed, its absolute paths reduced to their names, those after ``=`` too."""
    return shlex.join(map(_word, words))


def _word(word: str) -> str:
    whole = WORD.fullmatch(word)
    return f"{whole[1] or ''}{PurePosixPath(whole[2]).name}" if whole else without_places(word)
