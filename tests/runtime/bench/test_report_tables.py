from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from hybrid_edge.runtime import console as terminal
from hybrid_edge.runtime.bench.bench_report import BenchReport, Start
from hybrid_edge.runtime.bench.report_changes import compare_reports
from hybrid_edge.runtime.bench.report_tables import show_changes, show_predictions, show_report
from hybrid_edge.runtime.roofline import Limit, Rates, rates_of

OWN = Rates("this machine", {"fp32": 235.2, "int8": 876.6}, 52.94, None, None, "by hand", measured=True)
NAMES = ("int8-cpu-unrolled", "int8-tensorrt-unrolled")

Screens = Callable[[int], tuple[io.StringIO, io.StringIO]]


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> Screens:
    """Terminals of a width in the place of stdout and stderr, and what is printed on them."""

    def make(width: int) -> tuple[io.StringIO, io.StringIO]:
        out, err = io.StringIO(), io.StringIO()
        for name, file in (("stdout", out), ("status", err)):
            console = Console(file=file, force_terminal=True, width=width, color_system=None, highlight=False)
            monkeypatch.setattr(terminal, name, console)
        return out, err

    return make


def with_limits(report: BenchReport, rates: Rates, share: float) -> BenchReport:
    """Both cases under long names, each at a share of its limit."""
    branches = {"cnn": "arithmetic", "recurrent": "memory", "head": "memory"}
    start = Start(seconds=0.248, imports=0.2, opening=0.04, golden=0.006, first=0.002, peak_mib=1107, runs=1)
    cases = [
        case.model_copy(
            update={
                "variant": name,
                "limit": Limit(
                    ms=share * case.inference.p50,
                    overlapped_ms=0.1,
                    by_branch={},
                    limited_by=branches,
                ),
            }
        )
        for case, name in zip(report.cases, NAMES, strict=True)
    ]
    kept = dict.fromkeys(rates.targets, rates)
    return report.model_copy(
        update={"cases": tuple(cases), "rates": kept, "starts": dict.fromkeys(NAMES, start), "notes": (), "skipped": {}}
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_number_and_no_name_is_cut_whatever_the_terminal(
    screens: Screens, measured: BenchReport, width: int
) -> None:
    out, _ = screens(width)
    report = with_limits(measured, OWN, 0.25)
    show_report(report)
    text = out.getvalue()
    assert "…" not in text
    widest = max(map(len, text.partition(report.machine.title)[0].splitlines()))
    assert width < 80 or widest <= width, "the figures alone need 60 or so"
    for case in report.cases:
        numbers = (case.inference.p50, case.inference.p99, case.whole.p50, case.stages["cnn"])
        assert all(f"{number:.3f}" in text or f"{number:.2f}" in text for number in numbers)
    assert [line.split()[0] for line in text.splitlines() if line.strip().startswith("int8-")] == [*NAMES] * 4
    alone = [line.strip() for line in text.splitlines() if line.strip() in NAMES]
    assert alone == {40: [*NAMES] * 4, 60: [*NAMES] * 4}.get(width, alone), "above their figures where there is no room"
    assert text.count("25%") == 2
    assert len(re.findall(r"arithmetic +memory", text)) == 2
    assert "1107" in text


def test_a_comparison_and_a_prediction_are_not_cut_either(
    screens: Screens, measured: BenchReport, bench_bundle: Path
) -> None:
    out, _ = screens(80)
    report = with_limits(measured, OWN, 0.25)
    show_changes(compare_reports(report, report))
    show_predictions([("fp32-cuda, fp32-tensorrt", 4096, report.cases[0].limit)], rates_of("orin-nano"))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    assert [line.split() for line in lines if "4096" in line][-1][-2:] == ["arithmetic", "memory"]
    out, _ = screens(60)
    limit = report.cases[0].limit
    show_predictions(
        [("a", 1, limit), ("a", 2, limit), ("b", 1, limit), ("fp32-cuda, fp32-tensorrt", 1, None)],
        rates_of("orin-nano"),
    )
    lines = out.getvalue().splitlines()
    table = [line.split() for line in lines[lines.index(next(line for line in lines if "──" in line)) + 1 :]]
    assert [row[0].rstrip(",") for row in table[:7]] == ["a", "1", "2", "b", "1", "fp32-cuda", "1"]


def test_a_file_gets_each_row_as_one_line_and_brackets_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(terminal, "stdout", Console(file=out, width=20, soft_wrap=True))
    heads, row = ("", "batch", "first\nfigure", "verdict"), ("a-name [b]", "16", "4567.89", "faster (noisy)")
    terminal.show_table(terminal.make_table("times", heads, [row], text=("verdict",), caption="[c]"))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["a-name", "[b]", "16", "4567.89", "faster", "(noisy)"] in lines
    assert lines[2:4] == [["first"], ["batch", "figure", "verdict"]]
    assert lines[-1] == ["[c]"]


def test_a_limit_says_whose_rates_it_is_from(screens: Screens, measured: BenchReport) -> None:
    out, err = screens(120)
    show_report(with_limits(measured, OWN, 0.25))
    label = "limit: this machine, bound from rates measured on this machine"
    assert f"{label}: FP32 235.2, INT8 876.6 GMAC/s, 52.94 GB/s" in out.getvalue()
    assert err.getvalue() == ""
    out, _ = screens(120)
    show_report(with_limits(measured, rates_of("rpi5"), 0.25))
    label = "limit: Raspberry Pi 5, CPU, predicted bound, not measured"
    assert f"{label}: FP32 76.8, FP16 153.6, INT8 307.2 GMAC/s, 17.1 GB/s" in out.getvalue()


@pytest.mark.parametrize(
    ("rates", "why"),
    [
        (rates_of("rpi5"), "the rates of Raspberry Pi 5, CPU are not this machine's"),
        (OWN, "other programs slowed the probe, or the engine multiplies less than is counted"),
    ],
)
def test_a_case_that_beats_its_limit_is_named_with_the_reason(
    screens: Screens, measured: BenchReport, rates: Rates, why: str
) -> None:
    _, err = screens(120)
    show_report(with_limits(measured, rates, 2.16))
    assert f"over 100 % of the limit: {NAMES[0]} b1, {NAMES[1]} b3: {why}" in err.getvalue()


def test_rates_that_no_case_can_be_held_against_are_said(screens: Screens, measured: BenchReport) -> None:
    out, err = screens(120)
    kept = dict.fromkeys(("cuda", "tensorrt"), rates_of("h200"))
    show_report(measured.model_copy(update={"rates": kept}))
    assert "no limit: the rates of H200 SXM are for cuda, tensorrt, and what was measured ran on cpu" in err.getvalue()
    assert "limit:" not in out.getvalue()
