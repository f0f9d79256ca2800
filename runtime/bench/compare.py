"""Compare two reports: tell what got faster or slower, beyond the noise.

The ratio of a case's two times is the ratio of the medians of its rounds' medians. How sure it is follows from the
bootstrap (Efron, "Bootstrap methods", 1979): the rounds of each report are drawn again with replacement, each report's
by itself, many times, and the middle 95 % of the ratios that come out are the interval. A case is faster or slower if
all of that interval is beyond 1 by more than ``FLOOR``, by which two runs of the same thing differ: memory is laid out
anew in every process, and no number of rounds in one process shows it. With fewer than ``ENOUGH`` rounds on either
side the verdict is unknown: their interval could not be believed, and that of one round would have no width at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import BenchError
from .report import ENOUGH, BenchReport, Case, Stats

__all__ = ["FLOOR", "Change", "Comparison", "Verdict", "compare_reports", "ratio_interval"]

Verdict = Literal["faster", "slower", "same", "unknown"]

FLOOR = 0.03  # six sessions of one file, in one process, differed by up to 2.5 % in CPU time (digits, 2-core machine)
DRAWS = 4000
TAILS = (2.5, 97.5)
PARTS = ("inference", "whole")
REPEATED = ("the machine was busy", "clocks fell")  # how notes begin that are about all of a report's cases
DIGEST = 8  # digits of a file's SHA-256 that are shown


@dataclass(frozen=True)
class Change:
    """This is the change of one case's part from the first report to the second.

    Attributes:
        name: the case's name.
        part: ``inference`` or ``whole``.
        first, second: the medians of the rounds' medians, milliseconds a batch.
        ratio: second / first; below 1 is faster.
        low, high: the ratio's 95 % interval.
        noisy: whether one of the two reports calls the case noisy.
        few: whether one of the two reports has too few rounds to tell a change.
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
        if self.high < 1 - FLOOR:
            return "faster"
        return "slower" if self.low > 1 + FLOOR else "same"


@dataclass(frozen=True)
class Comparison:
    """This class holds all changes, the cases that only one report has, and notes on what makes the reports unlike."""

    changes: tuple[Change, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    notes: tuple[str, ...]


def compare_reports(first: BenchReport, second: BenchReport) -> Comparison:
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
    changes = [_change(ours[name], theirs[name], part) for name in common for part in PARTS]
    return Comparison(
        tuple(changes),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
        (*_too_few(changes), *_differences(first, second), *_repeated("first", first), *_repeated("second", second)),
    )


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of median(second) / median(first) of rounds' medians; the draws are fixed."""
    generator = np.random.default_rng(0)
    medians = [
        np.median(generator.choice(np.asarray(rounds), (DRAWS, len(rounds))), axis=1) for rounds in (first, second)
    ]
    low, high = (float(value) for value in np.percentile(medians[1] / medians[0], TAILS))
    return low, high


def _change(first: Case, second: Case, part: str) -> Change:
    before, after = _stats(first, part), _stats(second, part)
    ours, theirs = (float(np.median(item.rounds)) for item in (before, after))
    low, high = ratio_interval(before.rounds, after.rounds)
    noisy, few = before.noisy or after.noisy, before.few or after.few
    return Change(first.name, part, ours, theirs, theirs / ours, low, high, noisy, few)


def _stats(case: Case, part: str) -> Stats:
    return case.whole if part == "whole" else case.inference


def _too_few(changes: Sequence[Change]) -> list[str]:
    names = dict.fromkeys(item.name for item in changes if item.few)
    if not names:
        return []
    return [f"too few rounds to tell a change: {', '.join(names)}; measure both with --rounds {ENOUGH} or more"]


def _differences(first: BenchReport, second: BenchReport) -> list[str]:
    """Return notes on what a reader must know: that machines, models, files, settings or versions differ."""
    notes = []
    if first.machine.title != second.machine.title:
        notes.append(f"different machines: {first.machine.title}; and {second.machine.title}")
    if first.machine.system != second.machine.system:
        notes.append(f"different systems: {first.machine.system} and {second.machine.system}")
    governors = [report.machine.governor or "unknown" for report in (first, second)]
    if governors[0] != governors[1]:
        notes.append(f"different governors: {' and '.join(governors)}")
    weights = [report.bundle.weights_sha256[:12] for report in (first, second)]
    if weights[0] != weights[1]:
        notes.append(f"different models: weights {' and '.join(weights)}")
    if files := _different_files(first, second):
        notes.append(f"different files of {files}")
    if first.settings.get("threads") != second.settings.get("threads"):
        notes.append(f"different threads: {first.settings.get('threads')} and {second.settings.get('threads')}")
    ours, theirs = first.machine.versions, second.machine.versions
    changed = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if changed:
        listed = ", ".join(f"{name} {ours.get(name, 'absent')} and {theirs.get(name, 'absent')}" for name in changed)
        notes.append(f"different versions: {listed}")
    return notes


def _different_files(first: BenchReport, second: BenchReport) -> str:
    """Return the variants whose files differ, with both hashes; a report from before these were kept names none."""
    ours, theirs = ({case.variant: case.file_sha256 for case in report.cases} for report in (first, second))
    pairs = {name: (file, theirs.get(name)) for name, file in ours.items()}
    return "; ".join(
        f"{name}: {one[:DIGEST]}…, {other[:DIGEST]}…"
        for name, (one, other) in pairs.items()
        if one and other and one != other
    )


def _repeated(which: str, report: BenchReport) -> list[str]:
    """Return a report's notes that doubt its machine; doubts about single cases are marked at the cases."""
    return [f"{which}: {note}" for note in report.notes if note.startswith(REPEATED)]
