"""Reads a TOML file that says what a command's options say, and writes the one for the options that were given.

Its keys are the options' long names and the argument's name. They, their types and ranges come from the command's own
parameters, and the values go to Click as defaults, so that an option needs nothing here, and a flag wins over the file.
"""

from __future__ import annotations

import difflib
import glob
import inspect
import json
import os
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn

import typer

from ..console import say
from ..errors import UsageError
from ..infer_request import WEB_DEFAULT
from ..service.heartbeat import WORKER
from ..sources.names import display_name, parse_live
from .options import origin
from .toml_text import TomlText

TEXT = "HYBRID_EDGE_CONFIG_TEXT"  # holds the file as the supervisor read it, for its workers
ACTIONS = frozenset({"config", "show_config", "list_cameras", "help"})  # what is done, and not how
# what TOML may say for an option of that type, and what to call it
TYPES: dict[Any, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a text in quotes"),
    Path: (str, "a path in quotes"),
}


class ConfigFile:
    """This class is a file of a command's options, whose values it checks as the command line's are."""

    def __init__(self, path: Path, context: typer.Context) -> None:
        # a worker that replaces another must not find a file that is being edited: it gets what its parent has read
        self._file = TomlText(path, os.environ.pop(TEXT, None) if WORKER in os.environ else None)
        self._context = context
        context.meta[TEXT] = self._file.text

    def values(self) -> dict[str, Any]:
        """Return the file's values by the names of the command's parameters, paths joined to the file's folder.

        Raises:
            UsageError: the file is not TOML, or a key is not an option's, is given twice, or has a value of the wrong
                type or range; the message names the file and the line.
        """
        parsed = self._file.parse()
        keys = {key: (param, right) for param in _parameters(self._context) for key, right in _keys(param)}
        values: dict[str, Any] = {}
        before: dict[str, str] = {}
        for key, value in parsed.items():
            param, positive = keys[key] if key in keys else self._fail_unknown(key, value, keys)
            if param.name in values:
                self._file.fail(key, f"expected one of {key} and {before[param.name]}, found both; leave out one")
            before[param.name] = key
            values[param.name] = self._value(key, param, value, positive=positive)
        self._warn(parsed)
        return values

    def _value(self, key: str, param: Any, value: Any, *, positive: bool) -> Any:
        if param.name == "web" and value is True:  # as --web may stand alone
            value = WEB_DEFAULT
        self._check_type(key, param, value)
        if not positive:
            return not value
        folder = self._file.path.parent
        try:
            if param.param_type_name == "argument":
                value = [_beside(folder, name) for name in value]
            elif _kind(self._context, param) is Path:
                value = [str(folder / item) for item in value] if _many(param) else str(folder / value)
            param.process_value(self._context, value)
        except typer.BadParameter as error:
            self._file.fail(key, f"{key}: {error.message.rstrip('.')}, found {_shown(value)}")
        except UsageError as error:
            self._file.fail(key, f"{key}: {error}")
        return value

    def _check_type(self, key: str, param: Any, value: Any) -> None:
        kind = _kind(self._context, param)
        accepted, one = TYPES.get(kind, TYPES[str])

        def fits(item: Any) -> bool:
            return isinstance(item, accepted) and isinstance(item, bool) == (kind is bool)

        right, expected = fits(value), one
        if _many(param):
            right = isinstance(value, list) and all(map(fits, value))
            expected = f"a list, each of it {one}: {key} = [{_shown(value) if fits(value) else '…'}]"
        if not right:
            self._file.fail(key, f"{key}: expected {expected}, found {_shown(value)}")

    def _fail_unknown(self, key: str, value: Any, keys: Collection[str]) -> NoReturn:
        near = difflib.get_close_matches(key, keys, 1)
        found = f"the table [{key}]" if isinstance(value, dict) else key
        advice = f"; did you mean {near[0]}?" if near else ""
        self._file.fail(key, f"expected an option's long name, as --help shows it, found {found}{advice}")

    def _warn(self, parsed: Mapping[str, Any]) -> None:
        path = self._file.path
        if self._file.open_to_all and any(_has_password(value) for value in parsed.values()):
            say(f"{path} has a password in it, and everybody here may read it: chmod o= {path}", style="yellow")


def print_config(context: typer.Context) -> None:
    """Print on stdout the file that says what the command line, and the file that it named, have said.

    Raises:
        UsageError: a value is not UTF-8, as TOML must be.
    """
    lines = ["# read by --config; options that are given beside it win"]
    for param in _parameters(context):
        if origin(context, param.name) in ("COMMANDLINE", "DEFAULT_MAP"):
            note = getattr(param, "help", None)
            value = _toml_value(_absolute(param, context.params[param.name]))
            lines += ["", *([f"# {note}"] if note else []), f"{_keys(param)[0][0]} = {value}"]
    if any(_has_password(line) for line in lines):
        say("what is printed has a password in it: let nobody else read the file (chmod 600)", style="yellow")
    text = "\n".join(lines)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("--print-config: expected names in UTF-8, found other bytes; rename the file") from None
    typer.echo(text)


def keep_for_workers(context: typer.Context) -> None:
    """Hand the file, as this process has read it, to the workers that it will start."""
    if TEXT in context.meta:
        os.environ[TEXT] = context.meta[TEXT]


def _parameters(context: typer.Context) -> list[Any]:
    """Return the parameters that a file may set, objects of Click's classes, whose place depends on Typer's version."""
    return [param for param in context.command.params if param.name not in ACTIONS]


def _keys(param: Any) -> list[tuple[str, bool]]:
    """Return the keys that stand for a parameter, each with False where it says the opposite, the usual one first."""
    if param.param_type_name == "argument":
        return [(param.name, True)]
    names = [(name, True) for name in param.opts] + [(name, False) for name in param.secondary_opts]
    return [(name[2:], positive) for name, positive in names if name.startswith("--")]


def _kind(context: typer.Context, param: Any) -> Any:
    """Return the type of a parameter's value, or of each of its values."""
    hint = typing.get_type_hints(inspect.unwrap(context.command.callback))[param.name]  # type: ignore[arg-type]
    if typing.get_origin(hint) in (UnionType, typing.Union):
        hint = next(item for item in typing.get_args(hint) if item is not type(None))
    return typing.get_args(hint)[0] if typing.get_origin(hint) is list else hint


def _many(param: Any) -> bool:
    return bool(param.multiple or param.nargs != 1)


def _beside(folder: Path, name: str) -> str:
    """Return a source as it is named from here, where a file in ``folder`` names it: a live one stays as it is."""
    path = folder / name
    if os.path.lexists(path):
        return str(path)
    if parse_live(name) is not None:
        return name
    return str(Path(glob.escape(str(folder))) / name) if glob.has_magic(name) else str(path)


def _absolute(param: Any, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_absolute(param, item) for item in value]
    if isinstance(value, Path):
        return str(value.absolute())
    return _beside(Path.cwd(), value) if param.param_type_name == "argument" else value


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    # JSON's escapes are TOML's too, which also wants one for DEL
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return display_name(text if len(text) <= 80 else f"{text[:79]}…")


def _has_password(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_password, value))
    return isinstance(value, str) and display_name(value) != value
