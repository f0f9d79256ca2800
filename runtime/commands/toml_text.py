"""Reads a TOML file of keys and values, and tells what is wrong with it by the file's name and the line."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError
from ..foreign_text import printable

MAX_BYTES = 2**16  # of a file: it has to fit into a process's environment, where the kernel takes 128 KiB
KEY = re.compile(r"""\s*\[*\s*(["']?)([^\s"'=#\[\].]+)\1\s*[=\].]""")  # or a table's name
AT_LINE = re.compile(r" \(at line (\d+), column \d+\)")


class TomlText:
    """This class holds a TOML file's text and knows on which line a key stands.

    Attributes:
        path: the file, as it was named.
        text: what is in it, without a byte order mark.
        open_to_all: whether everybody on this machine may read the file; False for a text that was handed over.
    """

    def __init__(self, path: Path, text: str | None = None) -> None:
        """Take the text, or read it from the file.

        Raises:
            UsageError: the file can't be read, has more than 64 KiB, or is not UTF-8.
        """
        self.path = path
        self.open_to_all = False
        self.text = self._read() if text is None else text
        self._lines = self.text.split("\n")

    def parse(self) -> dict[str, Any]:
        """Return what the text says; raise UsageError where it is not TOML or gives a key twice."""
        try:
            return _toml(self.text)
        except RecursionError:
            raise UsageError(f"{self.path}: expected values in at most one pair of brackets, found many") from None
        except ValueError as error:  # TOMLDecodeError, and a number of thousands of digits
            found = AT_LINE.search(str(error))
            line = int(found[1]) if found else len(self._lines)
            reason = AT_LINE.sub("", str(error)).replace(" (at end of document)", ", at the end")
            twice = self._key_given_twice(line)
            if twice:
                reason = f"{twice} a second time, after line {self._line_of(twice)}; leave out one"
            raise UsageError(f"{self.path}:{line}: expected TOML (KEY = VALUE), found: {printable(reason)}") from None

    def fail(self, key: str, reason: str) -> NoReturn:
        """Raise UsageError with the file's name, the line of a key, and a reason."""
        line = self._line_of(key)
        raise UsageError(f"{self.path}{f':{line}' if line else ''}: {printable(reason)}")

    def _read(self) -> str:
        try:
            with self.path.open("rb") as file:
                self.open_to_all = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UsageError(f"--config {self.path}: expected a TOML file, found: {error.strerror}") from None
        if len(content) > MAX_BYTES:
            raise UsageError(f"--config {self.path}: expected at most {MAX_BYTES} bytes, found more")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise UsageError(f"{self.path}:{line}: expected UTF-8, found byte 0x{content[error.start]:02x}") from None

    def _key_given_twice(self, last: int) -> str:
        """Return the key of the statement that ends on a line, if a line before has it as well, else an empty text."""
        for number in range(last, 0, -1):
            if key := self._key_on(number):
                return key if 0 < self._line_of(key) < number else ""
        return ""

    def _line_of(self, key: str) -> int:
        """Return the number of the line on which a key stands first, from 1; 0 where that can't be told."""
        return next((number for number in range(1, len(self._lines) + 1) if self._key_on(number, key)), 0)

    def _key_on(self, number: int, wanted: str = "") -> str:
        """Return the key that begins a line, if it is the one wanted or any is; a line within a value has none."""
        match = KEY.match(self._lines[number - 1])
        if match is None or wanted not in ("", match[2]):
            return ""
        try:
            _toml("\n".join(self._lines[: number - 1]))
        except ValueError:  # the line is within a value that began before
            return ""
        return match[2]


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415  # only a run with a file needs it
    else:
        import tomli as tomllib  # noqa: PLC0415
    return tomllib.loads(text)
