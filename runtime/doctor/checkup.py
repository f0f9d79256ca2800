"""A checkup of one machine: its facts, the rules that apply, the engines that were tried, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ..errors import UsageError
from ..trust import Trust
from .facts import Facts
from .gathering import gather
from .rule_table import RULES
from .rules import Finding, judge
from .trials import BundleTrial, Watch, try_engines, try_imports

FORMAT = 1  # of the JSON
MAX_FILE = 4 * 2**20  # bytes of recorded facts
BROKEN_STATES = ("refused", "crashed", "hung", "no memory")


@dataclass(frozen=True)
class Checkup:
    """What was found on a machine; ``bundle`` is None where no engine was to be tried."""

    facts: Facts
    findings: list[Finding]
    bundle: BundleTrial | None = None

    @property
    def exit_code(self) -> int:
        """3: an engine computes something else than the exporter did; 1: something is broken; 0: nothing is."""
        bundle = self.bundle or BundleTrial()
        states = {trial.state for trial in bundle.engines}
        if "differs" in states:
            return 3
        none_works = bool(states) and "works" not in states
        broken = any(item.rule.severity == "broken" for item in self.findings)
        return int(broken or none_works or bool(bundle.problem) or not states.isdisjoint(BROKEN_STATES))

    def to_json(self) -> dict[str, Any]:
        """Return the whole checkup as JSON's own types; docs/doctor.md describes the keys."""
        bundle = self.bundle or BundleTrial()
        return {
            "format": FORMAT,
            "hybrid_edge": __version__,
            "exit_code": self.exit_code,
            "findings": [_finding_json(item) for item in self.findings],
            "bundle": {"root": bundle.root, "problem": bundle.problem},
            "engines": [asdict(trial) for trial in bundle.engines],
            "facts": self.facts.to_json(),
        }


def examine(
    bundle: Path | None,
    watch: Watch,
    *,
    trust: Trust | None = None,
    wanted: Collection[str] = (),
    build: bool = True,
) -> Checkup:
    """Examine this machine: gather facts, import each library and try each engine in processes of their own.

    ``bundle`` is a folder or tar that meets ``trust``, None for the usual places. ``watch`` is entered for each step
    with its name. ``wanted`` is what the machine is to be used for; ``build`` lets TensorRT build engines.
    """
    with watch("looking at this machine"):
        facts = try_imports(gather())
    return Checkup(facts, judge(facts, RULES, wanted), try_engines(bundle, watch, trust, build=build))


def examine_recorded(path: Path, wanted: Collection[str] = ()) -> Checkup:
    """Judge facts that ``--json`` recorded on another machine.

    Raises:
        UsageError: the file can't be read, or holds no facts.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected what hybrid-doctor --json printed, found: {error}") from None
    if isinstance(content, dict) and "facts" in content:
        content = content["facts"]
    facts = Facts.from_json(content)
    return Checkup(facts, judge(facts, RULES, wanted))


def _finding_json(finding: Finding) -> dict[str, str]:
    rule = finding.rule
    fields = {"id": rule.id, "severity": rule.severity, "found": finding.found}
    return {**fields, "known": rule.known, "action": rule.action, "source": rule.source}
