"""Show a report to people: tables on stdout, what a reader must know on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from .. import console
from ..console import ABSENT, make_table, say, show_table
from ..roofline import Limit, Rates
from .bench_report import MIN_ROUNDS, NO_COST, NOISY, STAGES, UNSPLIT, BenchReport, Case
from .report_changes import SAME_WITHIN, ReportChanges
from .tune import Tuned

STAGE_HEADS = {"preprocess": "pre-\nprocess", "copy in": "copy\nin", "cnn": "CNN", "copy out": "copy\nout"}
# the branches whose limiting factor is shown, as the head takes next to no time
LIMITED = {"cnn": "CNN\nlimited by", "recurrent": "recurrent\nlimited by"}
VERDICT_COLOURS = {"faster": "green", "slower": "bold red", "same": "dim", "unknown": "yellow"}


def show_report(report: BenchReport) -> None:
    """Print latency and throughput, where the time goes, limits, fresh processes, and on stderr the notes."""
    _show_latency(report)
    _show_stages(report)
    _show_limits(report)
    _show_starts(report)
    console.stdout.print(report.machine.title, markup=False, soft_wrap=True)
    reasons: dict[str, list[str]] = {}
    for name, reason in report.skipped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        say(f"not run: {', '.join(names)}: {reason}")
    for note in (*report.notes, *_limit_notes(report)):
        say(note, style="yellow")


def show_tuned(found: Tuned) -> None:
    """Print what each variant took on each number of threads, and mark what is taken; on stderr what was left out."""
    keys = dict.fromkeys(key for times in found.times.values() for key in times)
    rows = []
    for name, threads in keys:
        cells: list[str | Text] = [name, "default" if threads is None else str(threads)]
        for batch, times in found.times.items():
            ms, choice = times.get((name, threads)), found.tuning.batches[batch]
            taken = (choice.variant, choice.threads) == (name, threads)
            text = ABSENT if ms is None else _time(choice.milliseconds if taken else ms)
            cells.append(Text(f"{text} *", "green") if taken else text)
        rows.append(cells)
    heads = ("", "threads", *(f"batch {batch},\nms" for batch in found.times))
    show_table(make_table("Fastest here: *", heads, rows))
    for name, reason in found.skipped.items():
        say(f"not run: {name}: {reason}")


def show_predictions(variants: Sequence[tuple[str, int, Limit | None]], rates: Rates) -> None:
    """Print the bounds on a device that isn't here: name, batch size and limit, None where no cost was recorded."""
    branches = _limited_branches(limit for _, _, limit in variants)
    heads = ("", "batch", "ms a\nbatch", "overlapped", "images/s", *branches.values())
    rows = []
    for name, batch, limit in variants:
        cells = [ABSENT] * (len(heads) - 2)
        if limit is not None:
            rate = f"{1000 * batch / limit.ms:.0f}"
            cells = [_time(limit.ms), _time(limit.overlapped_ms), rate, *_limited_by(limit, branches)]
        rows.append([name, str(batch), *cells])
    title = f"{rates.name}: {rates.label}"
    show_table(make_table(title, heads, rows, text=branches.values(), caption=f"rates: {rates.source}"))
    if any(limit is None for _, _, limit in variants):
        say(NO_COST, style="yellow")


def show_changes(found: ReportChanges) -> None:
    """Print what got faster or slower, and on stderr what makes the reports unlike."""
    heads = ("", "part", "first", "second", "ratio", "95 %", "verdict")
    rows: list[list[str | Text]] = []
    for change in found.changes:
        verdict = Text(change.verdict, VERDICT_COLOURS[change.verdict])
        if change.noisy and not change.few:
            verdict.append(" (noisy)", "yellow")
        times, interval = (_time(change.first), _time(change.second)), f"{change.low:.3f} .. {change.high:.3f}"
        rows.append([change.name, change.part, *times, f"{change.ratio:.3f}", interval, verdict])
    caption = (
        "ratio of the medians of the rounds, and its bootstrap interval; faster or slower: all of that is beyond "
        f"1 ± {SAME_WITHIN:.0%}"
    )
    show_table(make_table("second / first, ms a batch", heads, rows, text=("part", "verdict"), caption=caption))
    for which, names in (("first", found.only_first), ("second", found.only_second)):
        if names:
            say(f"only in the {which}: {', '.join(names)}")
    for note in found.notes:
        say(note, style="yellow")


def _show_latency(report: BenchReport) -> None:
    powered = any(case.joules_per_frame is not None for case in report.cases)
    heads = ["", "batch", "p50", "p90", "p99", "mean", "img/s", "spread", "whole", "whole\nimg/s"]
    rows: list[list[str | Text]] = []
    for case, name in _with_names(report.cases):
        stats = case.inference
        row = [
            name,
            str(case.batch),
            *map(_time, (stats.p50, stats.p90, stats.p99, stats.mean)),
            _throughput(case.images_per_s),
            Text(f"{case.spread:.1%} noisy", "bold yellow") if case.noisy else f"{case.spread:.1%}",
            _time(case.whole.p50),
            _throughput(case.whole_images_per_s),
        ]
        if powered:
            row.append(ABSENT if case.joules_per_frame is None else f"{case.joules_per_frame:.3g}")
        rows.append(row)
    caption = (
        "inference: tensors in memory to probabilities; whole: BGR frame to label; img/s: images a second. spread: "
        f"10th to 90th percentile of the rounds' medians, of inference or whole; over {NOISY:.0%}, or with fewer than "
        f"{MIN_ROUNDS} rounds, a case is noisy"
    )
    show_table(make_table("latency, ms a batch", [*heads, "J/frame"] if powered else heads, rows, caption=caption))


def _show_stages(report: BenchReport) -> None:
    present = [name for name in (*STAGES, UNSPLIT) if any(name in case.stages for case in report.cases)]
    heads = ["", "batch", *(STAGE_HEADS.get(name, name) for name in present)]
    rows = [
        [name, str(case.batch), *(_time(case.stages[item]) if item in case.stages else ABSENT for item in present)]
        for case, name in _with_names(report.cases)
    ]
    caption = "branches: the engine's profile, taken apart from the timing, scaled to the inference without copies"
    show_table(make_table("where the time goes, ms a batch", heads, rows, caption=caption))


def _show_limits(report: BenchReport) -> None:
    rates = report.rates or {}
    branches = _limited_branches(case.limit for case in report.cases)
    heads = ("", "batch", "p50", "limit", "of it", *branches.values())
    captions = {"limit: the least time that the inference could take; of it: limit / p50": None}
    rows = []
    for case, name in _with_names([case for case in report.cases if case.limit]):
        if case.limit is not None and case.of_limit is not None:
            times = (_time(case.inference.p50), _time(case.limit.ms), f"{case.of_limit:.0%}")
            rows.append([name, str(case.batch), *times, *_limited_by(case.limit, branches)])
            captions[_rates_line(rates[case.target])] = None
    if rows:
        show_table(
            make_table("the limit, ms a batch", heads, rows, text=branches.values(), caption="\n".join(captions))
        )


def _show_starts(report: BenchReport) -> None:
    parts = ("imports", "opening", "golden\ncheck", "one\nframe", "peak\nMiB", "GPU\nMiB")
    rows = []
    for name, start in report.starts.items():
        seconds = (start.seconds, start.imports, start.opening, start.golden, start.first)
        gpu = ABSENT if start.gpu_mib is None else f"{start.gpu_mib:.0f}"
        rows.append([name, *(f"{value:.3f}" for value in seconds), f"{start.peak_mib:.0f}", gpu])
    if rows:
        show_table(make_table("a fresh process, medians", ("", "first\nprediction, s", *parts), rows))


def _limited_branches(limits: Iterable[Limit | None]) -> dict[str, str]:
    found = {name for limit in limits if limit for name in limit.limited_by}
    return {name: head for name, head in LIMITED.items() if name in found}


def _limited_by(limit: Limit, branches: Iterable[str]) -> list[str]:
    return [limit.limited_by.get(name, ABSENT) for name in branches]


def _rates_line(rates: Rates) -> str:
    """Return rates as the caption has them: ``limit: NAME, LABEL: FP32 76.8, INT8 307 GMAC/s, 17.1 GB/s``."""
    products = ", ".join(f"{kind.upper()} {rate:.4g}" for kind, rate in rates.gmacs.items())
    return f"limit: {rates.name}, {rates.label}: {products} GMAC/s, {rates.bandwidth_gbs:.4g} GB/s"


def _limit_notes(report: BenchReport) -> list[str]:
    """Return notes on limits that can't be this machine's, or on rates that no measured variant could use."""
    rates = report.rates or {}
    if rates and not any(case.target in rates for case in report.cases):
        measured = ", ".join(dict.fromkeys(case.target for case in report.cases))
        names = ", ".join(dict.fromkeys(item.name for item in rates.values()))
        return [
            f"no limit: the rates of {names} are for {', '.join(rates)}, and what was measured ran on {measured}; take "
            "--probe for the CPU, --rates DEVICE for its GPU"
        ]
    beaten: dict[str, list[str]] = {}
    for case in report.cases:
        if case.of_limit is not None and case.of_limit > 1:
            beaten.setdefault(_why_beaten(rates[case.target]), []).append(case.name)
    return [f"over 100 % of the limit: {', '.join(names)}: {why}" for why, names in beaten.items()]


def _why_beaten(rates: Rates) -> str:
    if not rates.measured:
        return f"the rates of {rates.name} are not this machine's"
    return "other programs slowed the probe, or the engine multiplies less than is counted; end them and measure again"


def _with_names(cases: Sequence[Case]) -> list[tuple[Case, str]]:
    """Return each case with its variant's name, which stands only in its first row, so that groups show."""
    before = [None, *(case.variant for case in cases)]
    return [(case, "" if case.variant == last else case.variant) for case, last in zip(cases, before, strict=False)]


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
