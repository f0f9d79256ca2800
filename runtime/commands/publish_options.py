"""The options of ``hybrid-infer`` that tell others, over the network, what is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OUTPUTS = "Outputs"  # a panel of --help

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
