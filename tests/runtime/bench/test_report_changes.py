from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hybrid_edge.runtime.bench.bench_report import BenchReport, Clocks
from hybrid_edge.runtime.bench.machine import busy_before, slowed_down
from hybrid_edge.runtime.bench.report_changes import compare_reports, ratio_interval
from hybrid_edge.runtime.errors import BenchError

Alter = Callable[..., BenchReport]
FIRST, SECOND = "fp32-cpu b1", "fp32-cpu b3"


def rounds(median: float, spread: float, seed: int, count: int = 12) -> list[float]:
    return list(median * (1 + spread * np.random.default_rng(seed).normal(size=count)))


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [(0.85, 0.02, "faster"), (1.2, 0.02, "slower"), (1.0, 0.02, "same"), (1.02, 0.001, "same"), (1.1, 0.3, "same")],
    ids=["faster", "slower", "the same", "less than two runs of one thing differ by", "drowned in noise"],
)
def test_a_change_counts_when_all_of_its_interval_is_beyond_the_noise(
    altered: Alter, factor: float, spread: float, verdict: str
) -> None:
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
    older = second.model_copy(
        update={"cases": tuple(case.model_copy(update={"file_sha256": None}) for case in second.cases)}
    )
    assert not any("files" in note for note in compare_reports(first, older).notes), "their hashes are not known"


def test_noise_of_either_run_is_carried_along(altered: Alter) -> None:
    noisy, steady = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5
    found = compare_reports(altered({FIRST: (steady, steady)}), altered({FIRST: (noisy, steady)}))
    marks = {item.part: item.noisy for item in found.changes if item.name == FIRST}
    assert marks == {"inference": True, "whole": False}


@pytest.mark.parametrize("counts", [(1, 1), (4, 12), (12, 4)])
def test_with_too_few_rounds_on_either_side_the_change_is_unknown_and_that_is_said(
    altered: Alter, counts: tuple[int, int]
) -> None:
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
