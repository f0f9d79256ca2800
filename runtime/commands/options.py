"""Options of a command that do not go together are refused here, and never silently ignored."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import typer

from ..errors import UsageError

__all__ = ["refuse_others"]


def refuse_others(context: typer.Context, option: str, goes_with: Collection[str]) -> None:
    """Refuse every option and argument that was given beside one that leaves no use for it.

    Args:
        context: the command's context.
        option: the option as it is written, such as ``--compare``.
        goes_with: the others that may be given beside it, as they are written: ``--batch``, ``BUNDLE``.

    Raises:
        UsageError: others were given; the message names them.
    """
    found = [name for name in _given(context) if name != option and name not in goes_with]
    if found:
        expected = f"nothing beside it but {', '.join(goes_with)}" if goes_with else "nothing beside it"
        raise UsageError(f"{option}: expected {expected}, found {', '.join(found)}; leave out one or the other")


def _given(context: typer.Context) -> list[str]:
    """Name what the command line gave: options by their longest name, arguments by what --help calls them."""
    names: list[str] = []
    parameters: Iterable[Any] = context.command.params  # Click's classes, whose place depends on Typer's version
    for parameter in parameters:
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name == "COMMANDLINE":
            argument = parameter.param_type_name == "argument"
            names.append(parameter.metavar or parameter.name.upper() if argument else max(parameter.opts, key=len))
    return names
