"""Turns a checkup into lines for people; facts are foreign texts, so control characters in them are escaped."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from .checkup import Checkup
from .facts import Facts
from .rules import SEVERITIES, Finding
from .trials import BundleTrial, EngineTrial

INDENT = 11  # columns of the words that lines begin with
SOURCE = "see: "
UNTRIED = "no engine was tried"
UNFOUND = "no bundle here, so imports alone were tried: --bundle PATH has its golden examples run"


class ShownLine(NamedTuple):
    """One line; ``word``, with which it begins, is a severity, a state or empty."""

    word: str
    rest: str

    @property
    def text(self) -> str:
        """The whole line."""
        return f"{self.word:<{INDENT}}{self.rest}" if self.word else self.rest


def show(checkup: Checkup, width: int | None = None) -> Iterator[ShownLine]:
    """Yield the lines of a checkup, wrapped at ``width`` columns; None leaves each sentence on one line."""
    for word, text in _sentences(checkup):
        first, *more = _wrapped(_escaped(text), width, INDENT if word else 0)
        yield ShownLine(word.strip(), first if word.strip() or not word else " " * INDENT + first)
        yield from (ShownLine("", " " * (INDENT if word else 0) + line) for line in more)


def _sentences(checkup: Checkup) -> Iterator[tuple[str, str]]:
    """Yield each line's first word and its rest; a word of spaces alone stands for an indented line."""
    yield from (("", text) for text in _machine(checkup.facts))
    yield "", ""
    yield from _engines(checkup.bundle)
    for finding in checkup.findings:
        yield "", ""
        yield from _finding(finding)
    yield "", ""
    yield "", _summary(checkup)


def _machine(facts: Facts) -> Iterator[str]:
    memory = f"{facts.memory / 1024:.1f} GiB" if facts.memory else ""
    cores = f"{facts.cores} core{'s' if facts.cores > 1 else ''}" if facts.cores else ""
    name = facts.board or facts.cpu or ""
    yield _listed(name, facts.machine, cores, memory, *facts.gpus, _mode(facts.power_mode))
    jetson = f"Jetson Linux {facts.jetson_linux} (JetPack {facts.jetpack or '?'})" if facts.jetson_linux else ""
    container = f"in {facts.container}" if facts.container else ""
    python = f"Python {facts.python}" if facts.python else ""
    yield _listed(facts.distribution, jetson, container, python)
    known = {
        "NumPy": facts.packages.get("numpy"),
        "OpenCV": facts.opencv,
        "ONNX Runtime": facts.onnxruntime,
        "TensorRT": facts.tensorrt,
        "TensorRT-RTX": facts.packages.get("tensorrt-rtx"),
        "cuda-python": facts.packages.get("cuda-python"),
        "NVIDIA driver": facts.driver,
    }
    yield _listed(*(f"{label} {version}" for label, version in known.items() if version))


def _mode(power_mode: str | None) -> str:
    return f"power mode {power_mode}" if power_mode else ""


def _listed(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _engines(bundle: BundleTrial | None) -> Iterator[tuple[str, str]]:
    if bundle is None:
        yield "", UNTRIED
    elif bundle.problem:
        yield "broken", f"the bundle can't be opened: {bundle.problem}"
    elif not bundle.root:
        yield "", UNFOUND
    else:
        yield "", f"golden examples of {bundle.root}"
        for names, trial in sorted(_grouped(bundle.engines), key=lambda group: group[1].state == "absent"):
            text = trial.text.partition(";")[0] if trial.state == "absent" else trial.text
            yield trial.state, f"{', '.join(names)}: {_listed(trial.device, text)}"


def _grouped(trials: tuple[EngineTrial, ...]) -> Iterator[tuple[list[str], EngineTrial]]:
    """Put the variants together that failed for one reason."""
    groups: dict[tuple[str, str], list[EngineTrial]] = {}
    for trial in trials:
        groups.setdefault((trial.state, trial.text), []).append(trial)
    for group in groups.values():
        yield [trial.variant for trial in group], group[0]


def _finding(finding: Finding) -> Iterator[tuple[str, str]]:
    rule = finding.rule
    yield rule.severity, f"{finding.found} [{rule.id}]"
    yield " ", rule.known
    yield " ", f"do: {rule.action}"
    yield " ", f"{SOURCE}{rule.source}"


def _summary(checkup: Checkup) -> str:
    counts = Counter(item.rule.severity for item in checkup.findings)
    engines = (checkup.bundle or BundleTrial()).engines
    works = sum(trial.state == "works" for trial in engines)
    tried = [f"{works} of {len(engines)} variants work"] if engines else []
    found = ", ".join(f"{counts[name]} {name}" for name in SEVERITIES if counts[name])
    unread = [f"not known: {', '.join(checkup.facts.unknown)}"] if checkup.facts.unknown else []
    return "; ".join([*tried, f"findings: {found or 'none'}", *unread])


def _wrapped(text: str, width: int | None, indent: int) -> list[str]:
    if width is None or text.startswith(SOURCE):  # an address is not to be broken
        return [text]
    room = max(20, width - indent)
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
