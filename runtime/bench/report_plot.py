"""Plot a report: latency by batch, each bar split by stage. No other module of the runtime uses matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BenchError
from ..storage import replacing
from .bench_report import STAGES, UNSPLIT, BenchReport, Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# colours that people who can't tell red from green still tell apart (Okabe and Ito)
STAGE_COLOURS = {
    "preprocess": "#999999",
    "copy in": "#CC79A7",
    "cnn": "#0072B2",
    "recurrent": "#E69F00",
    "head": "#009E73",
    UNSPLIT: "#56B4E9",
    "copy out": "#D55E00",
}
STAGE_LABELS = {"cnn": "CNN", "recurrent": "recurrent branch"}
MIN_PANEL_WIDTH, HEIGHT = 2.6, 4.2  # inches: the least width of one variant's panel, the height of the figure
BAR_WIDTH = 0.45  # inches of a panel for each bar, whose text has five characters at most
AXIS_AND_LEGEND = 2.2  # inches
MARGIN = 0.01  # share of the width that is left free beside title and caption


def require_matplotlib() -> None:
    """Refuse a plot with a BenchError, before anything is measured, where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise BenchError("expected matplotlib for --plot, found none; pip install 'hybrid-edge[plot]'")


def write_plot(report: BenchReport, path: Path) -> None:
    """Write a PNG: a panel a variant, a bar a batch size, as high as its stages' medians together, the limit as a line.

    Raises:
        BenchError: the report has no case.
    """
    figure = draw_report(report)
    with replacing(path, ".png") as partial:
        figure.savefig(partial, format="png", dpi=150)


def draw_report(report: BenchReport) -> Figure:
    """Return the figure that ``write_plot`` writes; its errors are the same."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # half a second, and not on every device

    variants: dict[str, list[Case]] = {}
    for case in report.cases:
        variants.setdefault(case.variant, []).append(case)
    if not variants:
        raise BenchError("expected a report with at least one case to plot, found none")
    width = max(MIN_PANEL_WIDTH, BAR_WIDTH * max(map(len, variants.values())))
    figure = Figure(figsize=(AXIS_AND_LEGEND + width * len(variants), HEIGHT), layout="constrained")
    panels = figure.subplots(1, len(variants), sharey=True, squeeze=False)[0]
    for panel, (variant, cases) in zip(panels, variants.items(), strict=True):
        _draw_panel(panel, variant, cases)
    panels[0].set_ylabel("ms a batch, median")
    legends = [zip(*panel.get_legend_handles_labels(), strict=True) for panel in panels]
    handles = {label: handle for legend in legends for handle, label in legend}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(report.machine.title, x=MARGIN, ha="left", fontsize=9, wrap=True)
    if caption := _caption(report):
        figure.supxlabel(caption, x=MARGIN, ha="left", fontsize=9, wrap=True)
    return figure


def _caption(report: BenchReport) -> str:
    """Return which rates the limits are from, and whether these are measured or predicted; '' without limits."""
    used = {case.target for case in report.cases if case.limit is not None}
    known = [rates for target, rates in (report.rates or {}).items() if target in used]
    said = dict.fromkeys(f"{rates.name}, {'measured' if rates.measured else rates.label}" for rates in known)
    return f"limit from the rates of {'; of '.join(said)}" if said else ""


def _draw_panel(panel: Axes, variant: str, cases: Sequence[Case]) -> None:
    positions = range(len(cases))
    tops = [0.0] * len(cases)
    for stage in (*STAGES, UNSPLIT):
        heights = [case.stages.get(stage, 0.0) for case in cases]
        if any(heights):
            label = STAGE_LABELS.get(stage, stage)
            panel.bar(positions, heights, bottom=tops, color=STAGE_COLOURS[stage], label=label, width=0.7)
            tops = [top + height for top, height in zip(tops, heights, strict=True)]
    for position, case, top in zip(positions, cases, tops, strict=True):
        if case.limit is not None:
            least = case.stages["preprocess"] + case.limit.ms  # it bounds the inference, which stands on preprocess
            panel.hlines(least, position - 0.4, position + 0.4, color="black", linestyles="dotted", label="limit")
        panel.annotate(
            _in_five_characters(top / case.batch),
            (position, top),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    panel.set_title(f"{variant}\n(on the bars: ms an image)", fontsize=9)
    panel.set_xticks(list(positions), [str(case.batch) for case in cases])
    panel.set_xlabel("batch")
    panel.margins(y=0.08)
    panel.spines[["top", "right"]].set_visible(False)


def _in_five_characters(value: float) -> str:
    """Return a value below 100 000 in five characters at most: 0.012, 1.20, 12.3, 123."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value >= 1 else f"{value:.3f}"
