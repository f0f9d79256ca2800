"""What ``hybrid-doctor`` is asked for on its command line, and how it answers; ``doctor`` has proven that it can be."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import pydantic  # noqa: F401  # some versions of Typer load it once they read options: here it can be proven
import typer
from rich.text import Text

from .. import console
from ..trust import Trust
from .options import BuildOption, BundleOption, ExpectSha256Option, RequireSignatureOption, refuse_others

STYLES = {
    "works": "green",
    "note": "cyan",
    "absent": "dim",
    "not built": "dim",
    "slow": "yellow",
    **dict.fromkeys(("broken", "differs", "refused", "crashed", "hung", "no memory"), "bold red"),
}


class Use(str, Enum):
    """What a machine is to be used for, beside classifying."""

    window = "window"
    mqtt = "mqtt"
    web = "web"
    metrics = "metrics"


def doctor(
    context: typer.Context,
    bundle: BundleOption = None,
    expect_sha256: ExpectSha256Option = None,
    require_signature: RequireSignatureOption = None,
    uses: Annotated[
        list[Use] | None, typer.Option("--for", help="Also check what this needs; may be repeated.", show_default=False)
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option("--facts", metavar="FILE.json", help="Judge what --json printed elsewhere.", show_default=False),
    ] = None,
    build: BuildOption = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, with all facts.")] = False,
) -> None:
    """Say what this machine can run, what is known to be broken on it, and what to do.

    The golden examples of a bundle are run through each of its variants,
    each in a process of its own.
    Exit code 0: nothing is broken; 1: something is; 2: wrong usage;
    3: an engine computes something else than the exporter did; 130: interrupted.

    Example: hybrid-doctor --bundle bundle.tar

    Example: hybrid-doctor --json > facts.json, and elsewhere hybrid-doctor --facts facts.json
    """
    from ..doctor.checkup import examine, examine_recorded  # noqa: PLC0415  # --help should not wait for it
    from ..doctor.shown import show  # noqa: PLC0415

    wanted = [use.value for use in uses or ()]
    if recorded is not None:
        refuse_others(context, "--facts", ("--for", "--json"))
        checkup = examine_recorded(recorded, wanted)
    else:
        trust = Trust.from_flags(expect_sha256, require_signature)
        checkup = examine(bundle, console.waiting, trust=trust, wanted=wanted, build=build)
    if as_json:
        console.print_json(checkup.to_json())
    else:
        for line in show(checkup, console.stdout.width if console.stdout.is_terminal else None):
            text = Text(line.text)
            text.stylize(STYLES.get(line.word, ""), 0, len(line.word))
            console.stdout.print(text, soft_wrap=True)
    raise typer.Exit(checkup.exit_code)


app = console.make_app(doctor)
