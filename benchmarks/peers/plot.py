"""The plot of docs/benchmarks.md: milliseconds an image, a bar for each engine and batch size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["draw"]

OURS, OTHERS, REFUSED = "#1b7f4b", "#7a8fa6", "#d6a9a3"
FADE = 0.55  # of the bars behind the first batch size


def draw(content: Mapping[str, Any], path: Path) -> None:
    """Draw ``peers.json``'s content, the slowest on top."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    batches = content["setting"]["batches"]
    rows = sorted(content["peers"], key=lambda row: row["times"][str(batches[0])]["median"])
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.55 * len(rows)), layout="constrained")
    height = 0.8 / len(batches)
    for place, row in enumerate(rows):
        color = REFUSED if row.get("passed") is False else OURS if row["ours"] else OTHERS
        for number, batch in enumerate(batches):
            time = row["times"][str(batch)]
            values = [time[key] * 1e3 / batch for key in ("p10", "median", "p90")]
            y = place + (len(batches) / 2 - number - 0.5) * height
            axes.barh(y, values[1], height * 0.92, color=color, alpha=1 if number == 0 else FADE)
            axes.plot([values[0], values[2]], [y, y], color="#333333", linewidth=1)
            axes.annotate(
                f"{values[1]:.0f} at batch {batch}" if values[1] >= 10 else f"{values[1]:.2g} at batch {batch}",
                (max(values), y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
            )
    refused = {row["name"] for row in rows if row.get("passed") is False}
    names = [row["name"] + (" (refused)" if row["name"] in refused else "") for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.margins(x=0.18, y=0.01)
    axes.set_xlabel("milliseconds an image (line: 10 to 90 % of the rounds)")
    axes.set_title(f"{content['setting']['model']}, {content['setting']['threads']} CPUs", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
