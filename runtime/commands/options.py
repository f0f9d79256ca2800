"""The options that several commands have, and the refusal of options that do not go together."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError

ENGINE, CONFIGURATION = "Engine", "Configuration"  # panels of --help
SOURCES = ("sources", "camera")  # parameters that name sources: those of a command line take the place of a file's
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
ExpectSha256Option = Annotated[
    list[str] | None,
    typer.Option(
        "--expect-sha256",
        metavar="HEX",
        help="The fingerprint that the bundle must have; may be repeated: one of them.",
        rich_help_panel=ENGINE,
    ),
]
RequireSignatureOption = Annotated[
    str | None,
    typer.Option(
        "--require-signature",
        metavar="KEY.pub",
        help="The public key that must have signed the bundle, or IDENTITY,https://ISSUER.",
        show_default="$HYBRID_EDGE_REQUIRE_SIGNATURE, /etc/hybrid-edge/require-signature.pem, none",
        rich_help_panel=ENGINE,
    ),
]
BackendOption = Annotated[str, typer.Option(help="auto, tensorrt, cuda or cpu.", rich_help_panel=ENGINE)]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, w8, fp16 or int8.", rich_help_panel=ENGINE)]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=MAX_THREADS, help="CPU threads.", show_default="the engine's choice", rich_help_panel=ENGINE
    ),
]
CheckOption = Annotated[
    bool | None,
    typer.Option(
        "--check/--no-check",
        help="Run the bundle's golden examples first, and stop if they differ.",
        show_default="unless they passed here and nothing changed",
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


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None and not context.resilient_parsing:
        from .config_file import ConfigFile  # noqa: PLC0415  # most runs have no file

        context.default_map = ConfigFile(path, context).values()
    return path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        is_eager=True,  # Click asks for the other options' defaults after it
        callback=_read_config,
        help="Sources and options from a file; those given beside it win.",
        show_default=False,
        rich_help_panel=CONFIGURATION,
    ),
]
ShowConfigOption = Annotated[
    bool,
    typer.Option("--print-config", help="Print that file for what is given, and end.", rich_help_panel=CONFIGURATION),
]


def prefer_named_sources(context: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Leave out a file's sources where the command line names some; this is the callback of what names sources.

    Click calls it for what the command line has before it asks for the defaults of the rest.
    """
    if context.default_map and origin(context, param.name or "") == "COMMANDLINE":
        for name in SOURCES:
            context.default_map.pop(name, None)
    return value


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


def origin(context: typer.Context, name: str) -> str:
    """Return where a parameter's value is from, as Click calls it: COMMANDLINE, DEFAULT_MAP (a file), DEFAULT, …."""
    source = context.get_parameter_source(name)
    return "" if source is None else source.name


def _given(context: typer.Context) -> list[str]:
    """Name what the command line gave: options by their longest name, arguments by what --help calls them."""
    names: list[str] = []
    parameters: Iterable[Any] = context.command.params  # Click's classes, whose place depends on Typer's version
    for parameter in parameters:
        if origin(context, parameter.name) == "COMMANDLINE":
            argument = parameter.param_type_name == "argument"
            names.append(parameter.metavar or parameter.name.upper() if argument else max(parameter.opts, key=len))
    return names
