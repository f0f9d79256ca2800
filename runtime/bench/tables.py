"""Show a report to people: tables on stdout, what a reader must know on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from .. import console
from ..console import say
from ..roofline.rates import Rates
from ..tables import NONE, TextTable
from .compare import FLOOR, Change, Comparison
from .limits import AGAIN, Prediction
from .report import ENOUGH, NOISY, STAGES, UNSPLIT, BenchReport, Case, Limit

__all__ = ["show_comparison", "show_predictions", "show_report"]

TITLES = {"cnn": "CNN"}
HEADS = {"preprocess": "pre-\nprocess", "copy in": "copy\nin", "copy out": "copy\nout", **TITLES}
LIMITED = ("cnn", "recurrent")  # the branches whose limiting factor is shown, as the head takes next to no time
COLOURS = {"faster": "green", "slower": "bold red", "same": "dim", "unknown": "yellow"}


def show_report(report: BenchReport) -> None:
    """Print latency and throughput, where the time goes, the fresh processes, and on stderr the notes."""
    latency_table(report.cases).show()
    stages_table(report).show()
    if report.starts:
        starts_table(report).show()
    console.stdout.print(report.machine.title, markup=False, soft_wrap=True)
    for reason, names in _by_reason(report.skipped).items():
        say(f"not run: {', '.join(names)}: {reason}")
    for note in (*report.notes, *_limit_notes(report)):
        say(note, style="yellow")


def latency_table(cases: Iterable[Case]) -> TextTable:
    """Return a table with one row for each case: percentiles and throughput of inference, and of the whole path."""
    cases = list(cases)
    powered = any(case.joules_per_frame is not None for case in cases)
    table = TextTable(
        "latency, ms a batch",
        ("", "batch"),
        ("p50", "p90", "p99", "mean", "img/s", "spread"),
        ("whole", "whole\nimg/s", *(("J/frame",) if powered else ())),
    )
    for case in cases:
        stats = case.inference
        spread = Text(f"{case.spread:.1%}", "bold yellow" if case.noisy else "")
        if case.noisy:
            spread.append(" noisy")
        cells: list[str | Text] = [
            *_times(stats.p50, stats.p90, stats.p99, stats.mean),
            _throughput(case.images_per_s),
            spread,
            *_times(case.whole.p50),
            _throughput(case.whole_images_per_s),
        ]
        joules = case.joules_per_frame
        table.add(*_first(case, cases), *cells, *([NONE if joules is None else f"{joules:.3g}"] if powered else ()))
    table.caption = (
        "inference: tensors in memory to probabilities; whole: BGR frame to label; img/s: images a second. spread: "
        f"10th to 90th percentile of the rounds' medians, of inference or whole; over {NOISY:.0%}, or with fewer than "
        f"{ENOUGH} rounds, a case is noisy"
    )
    return table


def stages_table(report: BenchReport) -> TextTable:
    """Return a table with one row for each case: the median of each stage, and the limit beside the inference."""
    cases = list(report.cases)
    present = [name for name in (*STAGES, UNSPLIT) if any(name in case.stages for case in cases)]
    limits = [case.limit for case in cases]
    branches = _limited_branches(limits)
    limited = [_limited_head(name) for name in branches]
    table = TextTable(
        "where the time goes, ms a batch",
        ("", "batch"),
        [HEADS.get(name, name) for name in present],
        ("limit", "of it") if any(limits) else (),
        limited,
        left=limited,
    )
    for case in cases:
        stages = case.stages
        cells = [NONE if name not in stages else _time(stages[name]) for name in present]
        table.add(*_first(case, cases), *cells, *(_limit_cells(case, branches) if any(limits) else ()))
    table.caption = (
        "branches: the engine's profile, taken apart from the timing, scaled to the inference without copies"
    )
    if any(limits):
        table.caption += "; of it: limit / p50"
        rates = _rates_of(report)
        used = dict.fromkeys(_rates_line(rates[case.target]) for case in cases if case.limit)
        table.caption = "\n".join((table.caption, *used))
    return table


def starts_table(report: BenchReport) -> TextTable:
    """Return a table with one row for each variant: a fresh process up to its first prediction, and its memory."""
    heads = ("first\nprediction, s", "imports", "opening", "golden\ncheck", "one\nframe", "peak\nMiB", "GPU\nMiB")
    table = TextTable("a fresh process, medians", ("",), heads)
    for name, start in report.starts.items():
        parts = (start.seconds, start.imports, start.opening, start.golden, start.first)
        gpu = NONE if start.gpu_mib is None else f"{start.gpu_mib:.0f}"
        table.add(name, *(f"{value:.3f}" for value in parts), f"{start.peak_mib:.0f}", gpu)
    return table


def show_predictions(predictions: Sequence[Prediction], rates: Rates) -> None:
    """Print the bounds on a device that isn't here."""
    branches = _limited_branches(item.limit for item in predictions)
    limited = [_limited_head(name) for name in branches]
    figures = ("ms a\nbatch", "overlapped", "images/s")
    table = TextTable(f"{rates.name}: {rates.label}", ("", "batch"), figures, limited, left=limited)
    for item in predictions:
        if item.limit is None:
            table.add(item.name, str(item.batch), *[NONE] * (len(figures) + len(branches)))
            continue
        rate = f"{1000 * item.batch / item.limit.ms:.0f}"
        times = _times(item.limit.ms, item.limit.overlapped_ms)
        table.add(item.name, str(item.batch), *times, rate, *_limited_cells(item.limit, branches))
    table.caption = f"rates: {rates.source}"
    table.show()
    if any(item.limit is None for item in predictions):
        say(AGAIN, style="yellow")


def show_comparison(comparison: Comparison) -> None:
    """Print what got faster or slower, and on stderr what makes the reports unlike."""
    figures = ("first", "second", "ratio", "95 %", "verdict")
    table = TextTable("second / first, ms a batch", ("", "part"), figures, left=("part", "verdict"))
    for change in comparison.changes:
        table.add(*_change_cells(change))
    table.caption = (
        "ratio of the medians of the rounds, and its bootstrap interval; faster or slower: all of that is beyond "
        f"1 ± {FLOOR:.0%}"
    )
    table.show()
    for which, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        if names:
            say(f"only in the {which}: {', '.join(names)}")
    for note in comparison.notes:
        say(note, style="yellow")


def _change_cells(change: Change) -> list[str | Text]:
    verdict = Text(change.verdict, COLOURS[change.verdict])
    if change.noisy and not change.few:
        verdict.append(" (noisy)", "yellow")
    interval = f"{change.low:.3f} .. {change.high:.3f}"
    return [change.name, change.part, *_times(change.first, change.second), f"{change.ratio:.3f}", interval, verdict]


def _limit_cells(case: Case, branches: Sequence[str]) -> list[str]:
    if case.limit is None or case.of_limit is None:
        return [NONE] * (2 + len(branches))
    return [_time(case.limit.ms), f"{case.of_limit:.0%}", *_limited_cells(case.limit, branches)]


def _limited_branches(limits: Iterable[Limit | None]) -> list[str]:
    found = {name for limit in limits if limit for name in limit.limited_by}
    return [name for name in LIMITED if name in found]


def _limited_head(branch: str) -> str:
    return f"{TITLES.get(branch, branch)}\nlimited by"


def _limited_cells(limit: Limit, branches: Sequence[str]) -> list[str]:
    return [limit.limited_by.get(name, NONE) for name in branches]


def _rates_of(report: BenchReport) -> Mapping[str, Rates]:
    """Return the rates by target, made from the form that the report keeps."""
    kept: Mapping[str, Mapping[str, Any]] = report.rates or {}
    return {target: Rates(**rates) for target, rates in kept.items()}


def _rates_line(rates: Rates) -> str:
    """Return rates as the caption has them: ``limit: NAME, LABEL: FP32 76.8, INT8 307 GMAC/s, 17.1 GB/s``."""
    products = ", ".join(f"{kind.upper()} {rate:.4g}" for kind, rate in rates.gmacs.items())
    return f"limit: {rates.name}, {rates.label}: {products} GMAC/s, {rates.bandwidth_gbs:.4g} GB/s"


def _limit_notes(report: BenchReport) -> list[str]:
    """Return notes on limits that can't be this machine's, or on rates that no measured variant could use."""
    rates = _rates_of(report)
    if rates and not any(case.target in rates for case in report.cases):
        measured = ", ".join(dict.fromkeys(case.target for case in report.cases))
        names = ", ".join(dict.fromkeys(item.name for item in rates.values()))
        return [
            f"no limit: the rates of {names} are for {', '.join(rates)}, and what was measured ran on {measured}; take "
            "--probe for the CPU, --rates DEVICE for its GPU"
        ]
    over = [case for case in report.cases if case.of_limit is not None and case.of_limit > 1]
    return [
        f"over 100 % of the limit: {', '.join(case.name for case in over if case.target in targets)}: {why}"
        for why, targets in _too_low(rates, over).items()
    ]


def _too_low(rates: Mapping[str, Rates], over: Iterable[Case]) -> dict[str, set[str]]:
    """Return by reason why limits were beaten, and the targets whose rates have that fault."""
    found: dict[str, set[str]] = {}
    for case in over:
        taken = rates[case.target]
        why = (
            "other programs slowed the probe, or the engine multiplies less than is counted; end them and measure again"
            if taken.measured
            else f"the rates of {taken.name} are not this machine's"
        )
        found.setdefault(why, set()).add(case.target)
    return found


def _first(case: Case, cases: list[Case]) -> tuple[str, str]:
    """Return variant and batch; the variant's name stands only in its first row, so that groups show."""
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
    """Return a time with about three digits and never an exponent: 0.012, 1.23, 123."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _throughput(value: float) -> str:
    """Return a throughput with one decimal below 1000 and none above, never an exponent: 4.5, 999.5, 8732."""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
