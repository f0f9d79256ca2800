"""A rule is what is known of a kind of machine: where it applies, what is known there, what to do, and who says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from .facts import Facts

Severity = Literal["broken", "slow", "note"]
SEVERITIES: tuple[Severity, ...] = ("broken", "slow", "note")


@dataclass(frozen=True)
class Rule:
    """One line of the table in ``rule_table``.

    Attributes:
        id: a name for support cases; it never changes.
        severity: ``broken`` ends the doctor with exit code 1; ``slow`` and ``note`` do not.
        found: what of the facts the rule is about, in a few words, where it applies; None or empty where it does not.
        known: what is known of that, in a sentence.
        action: what to do.
        source: an address, or a page of docs/.
        wanted: the uses that the rule is asked for, such as ``window``; empty: for every machine.
    """

    id: str
    severity: Severity
    found: Callable[[Facts], str | None]
    known: str
    action: str
    source: str
    wanted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Finding:
    """A rule that applies to a machine; ``found`` is what it applies to."""

    rule: Rule
    found: str


def judge(facts: Facts, rules: Iterable[Rule], wanted: Collection[str] = ()) -> list[Finding]:
    """Return the rules that apply to a machine, the worst first; ``wanted`` is what it is to be used for."""
    findings = [
        Finding(rule, rule.found(facts) or "") for rule in rules if not rule.wanted or rule.wanted & set(wanted)
    ]
    return sorted((item for item in findings if item.found), key=lambda item: SEVERITIES.index(item.rule.severity))
