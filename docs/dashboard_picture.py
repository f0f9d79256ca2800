"""Draws the panels of grafana-dashboard.json from a Prometheus, by the dashboard's own queries, with matplotlib.

    python docs/dashboard_picture.py http://127.0.0.1:9090 --minutes 7 --out docs/pictures/metrics.png

It shows what the queries give, and not what Grafana would make of them.
"""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import matplotlib as mpl
import typer

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter

DASHBOARD = Path(__file__).with_name("grafana-dashboard.json")
STEPS = 150  # values of each line
SHARES = "percent"  # is how a panel of shares is stacked
UNITS = {"cps": "a second", "s": "seconds", "bytes": "MiB; cores", "celsius": "°C", "watt": "W", "none": "number"}


def ask(prometheus: str, expression: str, start: float, end: float) -> list[dict[str, Any]]:
    """Return the series that Prometheus has for an expression of the dashboard, between two Unix times."""
    plain = expression.replace("$__rate_interval", "30s").replace("$instance", ".*").replace("$camera", ".*")
    place = f"/api/v1/query_range?query={quote(plain)}&start={start}&end={end}&step={(end - start) / STEPS}"
    connection = HTTPConnection(urlsplit(prometheus).netloc, timeout=30)
    connection.request("GET", place)
    answer = json.loads(connection.getresponse().read())
    if answer["status"] != "success":
        raise typer.BadParameter(f"expected {plain} to be a query, found: {answer['error']}")
    return list(answer["data"]["result"])


def draw(axes: Axes, panel: dict[str, Any], prometheus: str, start: float, end: float) -> None:
    """Draw one panel's queries: lines, bars for what happened, shares where they are stacked."""
    custom = panel["fieldConfig"]["defaults"]["custom"]
    lines: list[tuple[str, list[datetime], list[float]]] = []
    for target in panel["targets"]:
        for series in ask(prometheus, target["expr"], start, end):
            labels = series["metric"]
            name = re.sub(r"{{(\w+)}}", lambda match, labels=labels: labels.get(match[1], ""), target["legendFormat"])
            times = [datetime.fromtimestamp(at) for at, _ in series["values"]]  # as a clock shows it
            scale = 2**20 if "memory_bytes" in target["expr"] else 1
            lines.append((" ".join(name.split()), times, [float(value) / scale for _, value in series["values"]]))
    if "stacking" in custom and custom["stacking"]["mode"] == SHARES:
        moments = sorted({at for _, times, _ in lines for at in times})
        values = [dict(zip(times, found, strict=True)) for _, times, found in lines]
        whole = [sum(one.get(at, 0) for one in values) or 1 for at in moments]
        shares = [[one.get(at, 0) / all_ for at, all_ in zip(moments, whole, strict=True)] for one in values]
        axes.stackplot(moments, shares, labels=[name for name, _, _ in lines], alpha=0.7)
    for name, times, found in [] if "stacking" in custom else lines:
        if custom.get("drawStyle") == "bars":
            axes.scatter(times, found, s=14, marker="s", label=name)
        else:
            axes.plot(times, found, linewidth=1.2, label=name)
    if not lines:
        axes.text(0.5, 0.5, "none on this machine", ha="center", va="center", transform=axes.transAxes, color="gray")
    else:
        axes.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=2, frameon=False)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator(), show_offset=False))
        axes.set_ylim(bottom=0)
        axes.set_xlim(datetime.fromtimestamp(start), datetime.fromtimestamp(end))  # type: ignore[arg-type]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.set_ylabel("share" if "stacking" in custom else UNITS.get(unit, unit), fontsize=7)
    axes.tick_params(labelsize=7)


def main(prometheus: str, minutes: float = 7.0, out: Path = Path("metrics.png"), end: float = 0.0) -> None:
    """Draw the last minutes, or those before ``end``, Unix seconds."""
    panels = [item for item in json.loads(DASHBOARD.read_text())["panels"] if item["type"] == "timeseries"]
    figure, grid = plt.subplots(-(-len(panels) // 3), 3, figsize=(15, 9), layout="constrained")
    until = end or time.time()
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw(axes, panel, prometheus, until - 60 * minutes, until)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    typer.run(main)
