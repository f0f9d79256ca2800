"""The options of ``hybrid-infer`` that tell others, over the network, what is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..infer_request import WEB_DEFAULT
from ..listening import HOST_PORT

OUTPUTS = "Outputs"  # a panel of --help

WebOption = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:PORT]",
        help="A live page in the browser, for this machine alone: others need a token.",
        show_default=f"off; {WEB_DEFAULT} where no address follows",
        rich_help_panel=OUTPUTS,
    ),
]
WebTokenOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Holds the token that --web asks for.", rich_help_panel=OUTPUTS),
]
WebCertOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Certificate (PEM): --web by HTTPS.", rich_help_panel=OUTPUTS),
]
WebKeyOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).", rich_help_panel=OUTPUTS)
]
MqttOption = Annotated[
    str | None,
    typer.Option(
        metavar="mqtt://[USER@]HOST[/PREFIX]",
        help="Publish answers, faults and snapshots to an MQTT broker (mqtts: over TLS).",
        show_default=False,
        rich_help_panel=OUTPUTS,
    ),
]
MqttPasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The broker's password; or in HYBRID_EDGE_MQTT_PASSWORD.",
        show_default=False,
        rich_help_panel=OUTPUTS,
    ),
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Serve numbers to Prometheus, at /metrics.",
        show_default="off",
        rich_help_panel=OUTPUTS,
    ),
]


class WebCommand(TyperCommand):
    """This command's ``--web`` may stand alone, for which Typer has no option: it is given its value here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, of which a ``--web`` that no HOST:PORT follows means the usual address."""
        given = [
            f"--web={WEB_DEFAULT}" if item == "--web" and not HOST_PORT.fullmatch(following) else item
            for item, following in zip(args, [*args[1:], ""], strict=False)
        ]
        return super().parse_args(ctx, given)
