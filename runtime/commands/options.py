"""The options that several commands have, and the refusal of options that do not go together."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError

ENGINE = "Engine"  # a panel of --help
MAX_THREADS = 1024

BundleOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Bundle folder or tar, or a run folder.",
        show_default="./manifest.json, ./bundle, runs/latest/bundle",
        rich_help_panel=ENGINE,
    ),
]
BackendOption = Annotated[str, typer.Option(help="auto, tensorrt, cuda or cpu.", rich_help_panel=ENGINE)]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.", rich_help_panel=ENGINE)]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=MAX_THREADS, help="CPU threads.", show_default="the engine's choice", rich_help_panel=ENGINE
    ),
]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Run the bundle's golden examples first, and stop if they differ.",
        rich_help_panel=ENGINE,
    ),
]
BuildOption = Annotated[
    bool,
    typer.Option("--build/--no-build", help="Build a TensorRT engine where there is none.", rich_help_panel=ENGINE),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="MIN,OPT,MAX", help="Batch sizes of a TensorRT engine.", show_default="1,1,8", rich_help_panel=ENGINE
    ),
]
WorkspaceOption = Annotated[
    int | None,
    typer.Option(
        metavar="MIB",
        help="Scratch memory of a TensorRT engine.",
        show_default="what is safe here",
        rich_help_panel=ENGINE,
    ),
]


def refuse_others(context: typer.Context, option: str, goes_with: Collection[str]) -> None:
    """Refuse every option and argument that was given beside one, ``option``, that leaves no use for it.

    ``goes_with`` are the others that may be given beside it, as they are written: ``--batch``, ``BUNDLE``.

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
