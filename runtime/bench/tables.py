"""A report for people: tables on stdout, what a reader must know on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from .. import terminal
from ..opening import say
from ..roofline.rates import Rates
from .compare import FLOOR, Change, Comparison
from .limits import AGAIN, Prediction
from .report import ENOUGH, NOISY, STAGES, UNSPLIT, BenchReport, Case

__all__ = ["show_comparison", "show_predictions", "show_report"]

NONE = "–"
TITLES = {"cnn": "CNN"}
COLOURS = {"faster": "green", "slower": "bold red", "same": "dim"}


def show_report(report: BenchReport) -> None:
    """Latency and throughput, where the time goes, and fresh processes."""
    _print(latency_table(report.cases))
    _print(stages_table(report.cases))
    if report.starts:
        _print(starts_table(report))
    terminal.stdout.print(report.machine.title, markup=False, soft_wrap=True)
    for reason, names in _by_reason(report.skipped).items():
        say(f"not run: {', '.join(names)}: {reason}")
    for note in report.notes:
        say(note, style="yellow")


def latency_table(cases: Iterable[Case]) -> Table:
    """One row for each case: percentiles and throughput of inference, and of the whole path."""
    cases = list(cases)
    table = _table(
        "latency, ms a batch", "batch", "p50", "p90", "p99", "mean", "images/s", "spread", "whole", "images/s"
    )
    if any(case.joules_per_frame is not None for case in cases):
        table.add_column("J/frame", justify="right")
    for case in cases:
        stats = case.inference
        spread = Text(f"{case.spread:.1%}", "bold yellow" if case.noisy else "")
        if case.noisy:
            spread.append(" noisy")
        cells: list[str | Text] = [
            *_times(stats.p50, stats.p90, stats.p99, stats.mean),
            f"{case.images_per_s:.1f}",
            spread,
            *_times(case.whole.p50),
            f"{case.whole_images_per_s:.1f}",
        ]
        joules = [] if case.joules_per_frame is None else [f"{case.joules_per_frame:.3g}"]
        table.add_row(*_first(case, cases), *cells, *joules)
    table.caption = (
        "inference: tensors in memory to probabilities; whole: BGR frame to label. spread: 10th to 90th percentile of "
        f"the rounds' medians, of inference or whole; over {NOISY:.0%}, or with fewer than {ENOUGH} rounds, a case is "
        "noisy"
    )
    return table


def stages_table(cases: Iterable[Case]) -> Table:
    """One row for each case: the median of each stage, and the limit beside the inference."""
    cases = list(cases)
    present = [name for name in (*STAGES, UNSPLIT) if any(name in case.stages for case in cases)]
    limited = any(case.limit for case in cases)
    extra = ("limit", "of it", "limited by") if limited else ()
    table = _table("where the time goes, ms a batch", "batch", *(TITLES.get(name, name) for name in present), *extra)
    for case in cases:
        stages = case.stages
        cells = [NONE if name not in stages else _time(stages[name]) for name in present]
        table.add_row(*_first(case, cases), *cells, *(_limit_cells(case) if limited else ()))
    table.caption = (
        "branches: the engine's profile, taken apart from the timing, scaled to the inference without copies"
    )
    if limited:
        table.caption += "; of it: limit / p50"
    return table


def starts_table(report: BenchReport) -> Table:
    """One row for each variant: a fresh process up to its first prediction, and its memory."""
    names = ("first prediction, s", "imports", "opening", "golden check", "one frame", "peak MiB", "GPU MiB")
    table = _table("a fresh process, medians", *names)
    for name, start in report.starts.items():
        parts = (start.seconds, start.imports, start.opening, start.golden, start.first)
        gpu = NONE if start.gpu_mib is None else f"{start.gpu_mib:.0f}"
        table.add_row(name, *(f"{value:.3f}" for value in parts), f"{start.peak_mib:.0f}", gpu)
    return table


def show_predictions(predictions: Sequence[Prediction], rates: Rates) -> None:
    """The bounds on a device that isn't here."""
    table = _table(f"{rates.name}: {rates.label}", "batch", "ms a batch", "overlapped", "images/s", "limited by")
    for item in predictions:
        if item.limit is None:
            table.add_row(item.name, str(item.batch), *[NONE] * 4)
            continue
        rate = f"{1000 * item.batch / item.limit.ms:.0f}"
        times = _times(item.limit.ms, item.limit.overlapped_ms)
        table.add_row(item.name, str(item.batch), *times, rate, _limited_by(item.limit.limited_by))
    table.caption = f"rates: {rates.source}"
    _print(table)
    if any(item.limit is None for item in predictions):
        say(AGAIN, style="yellow")


def show_comparison(comparison: Comparison) -> None:
    """What got faster or slower, and what makes the reports unlike."""
    table = _table("second / first, ms a batch", "part", "first", "second", "ratio", "95 %", "verdict")
    for change in comparison.changes:
        table.add_row(*_change_cells(change))
    table.caption = (
        "ratio of the medians of the rounds, and its bootstrap interval; faster or slower: all of that is beyond "
        f"1 ± {FLOOR:.0%}"
    )
    _print(table)
    for which, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        if names:
            say(f"only in the {which}: {', '.join(names)}")
    for note in comparison.notes:
        say(note, style="yellow")


def _change_cells(change: Change) -> list[str | Text]:
    verdict = Text(change.verdict, COLOURS[change.verdict])
    if change.noisy:
        verdict.append(" (noisy)", "yellow")
    interval = f"{change.low:.3f} .. {change.high:.3f}"
    return [change.name, change.part, *_times(change.first, change.second), f"{change.ratio:.3f}", interval, verdict]


def _limit_cells(case: Case) -> list[str]:
    if case.limit is None or case.of_limit is None:
        return [NONE] * 3
    return [_time(case.limit.ms), f"{case.of_limit:.0%}", _limited_by(case.limit.limited_by)]


def _limited_by(branches: dict[str, str]) -> str:
    return ", ".join(f"{TITLES.get(name, name)} {what}" for name, what in branches.items() if name != "head")


def _first(case: Case, cases: list[Case]) -> tuple[str, str]:
    """Variant and batch; the variant's name only where it begins, so that groups show."""
    position = cases.index(case)
    same = position > 0 and cases[position - 1].variant == case.variant
    return "" if same else case.variant, str(case.batch)


def _by_reason(skipped: dict[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _times(*values: float) -> list[str]:
    return [_time(value) for value in values]


def _time(value: float) -> str:
    """Three significant digits, and never an exponent: 0.0123, 1.23, 123."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        left = column in ("limited by", "part", "verdict")
        table.add_column(column, justify="left" if left else "right", no_wrap=not left)
    return table


def _print(table: Table) -> None:
    """As wide as it is where nobody watches: rich takes a file for 80 columns, and would cut numbers."""
    console = terminal.stdout
    if not console.is_terminal:
        caption, table.caption = table.caption, None
        wanted = console.measure(table, options=console.options.update(max_width=1000)).maximum
        table.caption = caption
        console.width = max(console.width, wanted)
    console.print(table)
