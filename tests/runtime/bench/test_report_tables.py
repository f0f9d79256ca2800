import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hybrid_edge.runtime import console as terminal
from hybrid_edge.runtime.bench.bench_report import BenchReport, Clocks, Start
from hybrid_edge.runtime.bench.machine import busy_before, slowed_down
from hybrid_edge.runtime.bench.report_changes import compare_reports, ratio_interval
from hybrid_edge.runtime.bench.report_tables import show_changes, show_predictions, show_report
from hybrid_edge.runtime.errors import BenchError
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
    fields: dict[str, Any] = {"overlapped_ms": 0.1, "by_branch": {}, "limited_by": branches}
    cases = tuple(
        case.model_copy(update={"variant": name, "limit": Limit(ms=share * case.inference.p50, **fields)})
        for case, name in zip(report.cases, NAMES, strict=True)
    )
    starts, kept = dict.fromkeys(NAMES, start), dict.fromkeys(rates.targets, rates)
    return report.model_copy(update={"cases": cases, "rates": kept, "starts": starts, "notes": (), "skipped": {}})


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


def test_a_comparison_and_a_prediction_are_not_cut(screens: Screens, measured: BenchReport, bench_bundle: Path) -> None:
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


Alter = Callable[..., BenchReport]
FIRST, SECOND = "fp32-cpu b1", "fp32-cpu b3"


def rounds(median: float, spread: float, seed: int, count: int = 12) -> list[float]:
    return list(median * (1 + spread * np.random.default_rng(seed).normal(size=count)))


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [(0.85, 0.02, "faster"), (1.2, 0.02, "slower"), (1.0, 0.02, "same"), (1.02, 0.001, "same"), (1.1, 0.3, "same")],
    ids=["faster", "slower", "the same", "less than two runs of one thing differ by", "drowned in noise"],
)
def test_a_change_counts_when_wholly_beyond_noise(altered: Alter, factor: float, spread: float, verdict: str) -> None:
    before = altered({FIRST: (rounds(5, spread, 1), rounds(9, spread, 2))})
    after = altered({FIRST: (rounds(5 * factor, spread, 3), rounds(9 * factor, spread, 4))})
    changes = {(item.name, item.part): item for item in compare_reports(before, after).changes}
    assert {changes[FIRST, part].verdict for part in ("inference", "whole")} == {verdict}
    assert changes[FIRST, "inference"].low <= changes[FIRST, "inference"].ratio <= changes[FIRST, "inference"].high


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(100):
        low, high = ratio_interval(rounds(5, 0.05, seed), rounds(6, 0.05, 1000 + seed))
        inside += low <= 6 / 5 <= high
    assert inside >= 88  # of 95 in the mean; a median of 12 rounds is bootstrapped a little narrow


def test_a_report_beside_itself_is_the_same_everywhere(altered: Alter) -> None:
    quiet = altered(notes=())
    found = compare_reports(quiet, quiet)
    assert {(item.ratio, item.verdict) for item in found.changes} == {(1.0, "same")}
    assert (found.only_first, found.only_second, found.notes) == ((), (), ())


def test_cases_are_joined_by_name_and_the_others_are_listed(altered: Alter, measured: BenchReport) -> None:
    other = measured.cases[1].model_copy(update={"batch": 16})
    found = compare_reports(measured, altered(cases=(measured.cases[0], other)))
    assert {item.name for item in found.changes} == {FIRST}
    assert (found.only_first, found.only_second) == ((SECOND,), ("fp32-cpu b16",))


def test_nothing_in_common_is_an_error_that_lists_both(altered: Alter, measured: BenchReport) -> None:
    with pytest.raises(BenchError, match="found fp32-cpu b1, fp32-cpu b3 in the first and none in the second"):
        compare_reports(measured, altered(cases=()))


def test_other_machines_models_files_settings_and_versions_are_told(altered: Alter, measured: BenchReport) -> None:
    def of(digit: str, threads: int, **machine: object) -> BenchReport:
        return altered(
            machine=measured.machine.model_copy(update={"model": None, "gpu": None, "power_mode": None, **machine}),
            bundle=measured.bundle.model_copy(update={"weights_sha256": digit * 64}),
            settings={**measured.settings, "threads": threads},
            cases=tuple(case.model_copy(update={"file_sha256": digit * 64}) for case in measured.cases),
            notes=(),
        )

    size = f"{measured.machine.cores} cores, {measured.machine.memory_gib:.1f} GiB"
    first = of("7", 1, cpu="Xeon", system="Linux 5.15", governor="powersave", versions={"numpy": "1.26"})
    second = of("a", 4, cpu="Cortex", system="Linux 6.8", governor=None, versions={"numpy": "2.4", "tensorrt": "10.3"})
    assert compare_reports(first, first).notes == ()
    assert compare_reports(first, second).notes == (
        f"different machines: Xeon, {size} and Cortex, {size}",
        "different systems: Linux 5.15 and Linux 6.8",
        "different governors: powersave and unknown",
        f"different models: weights {'7' * 12} and {'a' * 12}",
        "different threads: 1 and 4",
        "different files of fp32-cpu: 77777777…, aaaaaaaa…",
        "different versions: numpy 1.26 and 2.4, tensorrt absent and 10.3",
    )
    cases = tuple(case.model_copy(update={"file_sha256": None}) for case in second.cases)
    older = second.model_copy(update={"cases": cases})
    assert not any("files" in note for note in compare_reports(first, older).notes), "their hashes are not known"


def test_noise_of_either_run_is_carried_along(altered: Alter) -> None:
    noisy, steady = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5
    found = compare_reports(altered({FIRST: (steady, steady)}), altered({FIRST: (noisy, steady)}))
    marks = {item.part: item.noisy for item in found.changes if item.name == FIRST}
    assert marks == {"inference": True, "whole": False}


@pytest.mark.parametrize("counts", [(1, 1), (4, 12), (12, 4)])
def test_with_too_few_rounds_on_either_side_a_change_is_called_unknown(altered: Alter, counts: tuple[int, int]) -> None:
    before, after = (
        altered({FIRST: ([time] * count, [time] * count)}, notes=()) for time, count in zip((5, 9), counts, strict=True)
    )
    found = compare_reports(before, after)
    assert {(item.verdict, item.noisy) for item in found.changes if item.name == FIRST} == {("unknown", True)}
    assert found.notes == (f"too few rounds to tell a change: {FIRST}; measure both with --rounds 5 or more",)


def test_what_each_report_says_of_its_machine_is_repeated(altered: Alter, measured: BenchReport) -> None:
    busy = busy_before(measured.machine.model_copy(update={"before": Clocks(load=1.5)}))
    fell = slowed_down(Clocks(load=0, cpu_mhz=4000), Clocks(load=0, cpu_mhz=2000))
    found = compare_reports(altered(notes=(busy, "fp32-cpu is over its parity limits")), altered(notes=(busy, fell)))
    assert found.notes == (f"first: {busy}", f"second: {busy}", f"second: {fell}")
