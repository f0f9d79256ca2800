"""Tell from two reports what got faster or slower, beyond the noise.

The ratio of a case's two times is the ratio of the medians of its rounds' medians. How sure it is follows from the
bootstrap (Efron, "Bootstrap methods", 1979): the rounds of each report are drawn again with replacement, each report's
by itself, many times, and the middle 95 % of the ratios that come out are the interval. A case is faster or slower if
all of that interval is beyond 1 by more than ``SAME_WITHIN``, by which two runs of the same thing differ: memory is
laid out anew in every process, and no number of rounds in one process shows it. With fewer than ``MIN_ROUNDS`` rounds
on either side the verdict is unknown: their interval could not be believed, and that of one round would have no width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import BenchError
from .bench_report import MIN_ROUNDS, BenchReport, Stats

Verdict = Literal["faster", "slower", "same", "unknown"]

SAME_WITHIN = 0.03  # six sessions of one file in one process differed by up to 2.5 % in CPU time (digits, 2 cores)
DRAWS = 4000
INTERVAL = (2.5, 97.5)  # percentiles
MACHINE_NOTES = ("the machine was busy", "clocks fell")  # how notes begin that are about all of a report's cases
HASH_DIGITS = 8  # of a file's SHA-256 that are shown


@dataclass(frozen=True)
class Change:
    """The change of one case's part, ``inference`` or ``whole``, from the first report to the second.

    ``first`` and ``second`` are the medians of the rounds' medians, milliseconds a batch, ``ratio`` is second / first,
    from ``low`` to ``high`` its 95 % interval. ``noisy`` and ``few`` (rounds) are what either report says of the case.
    """

    name: str
    part: str
    first: float
    second: float
    ratio: float
    low: float
    high: float
    noisy: bool
    few: bool

    @property
    def verdict(self) -> Verdict:
        """``faster`` or ``slower`` beyond the noise, else ``same``; ``unknown`` with too few rounds to tell."""
        if self.few:
            return "unknown"
        if self.high < 1 - SAME_WITHIN:
            return "faster"
        return "slower" if self.low > 1 + SAME_WITHIN else "same"


@dataclass(frozen=True)
class ReportChanges:
    """All changes, the cases that only one report has, and notes on what makes the reports unlike."""

    changes: tuple[Change, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    notes: tuple[str, ...]


def compare_reports(first: BenchReport, second: BenchReport) -> ReportChanges:
    """Join two reports by the names of their cases.

    Raises:
        BenchError: the reports have no case in common.
    """
    ours, theirs = ({case.name: case for case in report.cases} for report in (first, second))
    common = [name for name in ours if name in theirs]
    if not common:
        raise BenchError(
            f"expected a case that both reports have, found {', '.join(ours) or 'none'} in the first and "
            f"{', '.join(theirs) or 'none'} in the second; measure the same variants and batch sizes"
        )
    changes = [
        change
        for name in common
        for change in (
            _change(name, "inference", ours[name].inference, theirs[name].inference),
            _change(name, "whole", ours[name].whole, theirs[name].whole),
        )
    ]
    notes = [f"different {what}" for what in _differences(first, second)]
    if few := dict.fromkeys(item.name for item in changes if item.few):
        again = f"measure both with --rounds {MIN_ROUNDS} or more"
        notes.insert(0, f"too few rounds to tell a change: {', '.join(few)}; {again}")
    for which, report in (("first", first), ("second", second)):
        notes += [f"{which}: {note}" for note in report.notes if note.startswith(MACHINE_NOTES)]
    return ReportChanges(
        tuple(changes),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
        tuple(notes),
    )


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of median(second) / median(first) of rounds' medians; the draws are fixed."""
    generator = np.random.default_rng(0)
    medians = [
        np.median(generator.choice(np.asarray(rounds), (DRAWS, len(rounds))), axis=1) for rounds in (first, second)
    ]
    low, high = (float(value) for value in np.percentile(medians[1] / medians[0], INTERVAL))
    return low, high


def _change(name: str, part: str, before: Stats, after: Stats) -> Change:
    first, second = (float(np.median(item.rounds)) for item in (before, after))
    low, high = ratio_interval(before.rounds, after.rounds)
    noisy, few = before.noisy or after.noisy, before.few or after.few
    return Change(name, part, first, second, second / first, low, high, noisy, few)


def _differences(first: BenchReport, second: BenchReport) -> Iterator[str]:
    """Yield what a reader must know: in what machines, models, files, settings or versions differ."""
    machines = (first.machine, second.machine)
    weights = [report.bundle.weights_sha256[:12] for report in (first, second)]
    pairs: dict[str, list[Any]] = {
        "machines: ": [machine.title for machine in machines],
        "systems: ": [machine.system for machine in machines],
        "governors: ": [machine.governor or "unknown" for machine in machines],
        "models: weights ": weights,
        "threads: ": [report.settings.get("threads") for report in (first, second)],
    }
    for what, (before, after) in pairs.items():
        if before != after:
            yield f"{what}{before} and {after}"
    # a report from before files' hashes were kept has none
    ours, theirs = ({case.variant: case.file_sha256 for case in report.cases} for report in (first, second))
    for name, one in ours.items():
        if one and (other := theirs.get(name)) and one != other:
            yield f"files of {name}: {one[:HASH_DIGITS]}…, {other[:HASH_DIGITS]}…"
    versions, others = (machine.versions for machine in machines)
    changed = [name for name in versions | others if versions.get(name) != others.get(name)]
    if changed:
        listed = (f"{name} {versions.get(name, 'absent')} and {others.get(name, 'absent')}" for name in changed)
        yield f"versions: {', '.join(listed)}"
