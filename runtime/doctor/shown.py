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
    """One line; ``word``, with which it begins, is a severity or a state; without one it may be ``indented``."""

    word: str
    rest: str
    indented: bool = False

    @property
    def text(self) -> str:
        """The whole line."""
        return f"{self.word:<{INDENT}}{self.rest}" if self.word or self.indented else self.rest


def show(checkup: Checkup, width: int | None = None) -> Iterator[ShownLine]:
    """Yield the lines of a checkup, wrapped at ``width`` columns; None leaves each sentence on one line."""
    for sentence in _sentences(checkup):
        indented = bool(sentence.word or sentence.indented)
        first, *more = _wrapped(_escaped(sentence.rest), width, INDENT if indented else 0)
        yield sentence._replace(rest=first)
        yield from (ShownLine("", rest, indented) for rest in more)


def _sentences(checkup: Checkup) -> Iterator[ShownLine]:
    empty = ShownLine("", "")
    yield from (ShownLine("", text) for text in _machine(checkup.facts) if text)
    yield empty
    yield from _engines(checkup.bundle)
    for finding in checkup.findings:
        yield empty
        yield from _finding(finding)
    yield empty
    yield ShownLine("", _summary(checkup))


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


def _engines(bundle: BundleTrial | None) -> Iterator[ShownLine]:
    if bundle is None:
        yield ShownLine("", UNTRIED)
    elif bundle.problem:
        yield ShownLine("broken", f"the bundle can't be opened: {bundle.problem}")
    elif not bundle.root:
        yield ShownLine("", UNFOUND)
    else:
        yield ShownLine("", f"golden examples of {bundle.root}")
        for names, trial in sorted(_grouped(bundle.engines), key=lambda group: group[1].state == "absent"):
            text = trial.text.partition(";")[0] if trial.state == "absent" else trial.text
            yield ShownLine(trial.state, f"{', '.join(names)}: {_listed(trial.device, text)}")


def _grouped(trials: tuple[EngineTrial, ...]) -> Iterator[tuple[list[str], EngineTrial]]:
    """Put the variants together that failed for one reason."""
    groups: dict[tuple[str, str], list[EngineTrial]] = {}
    for trial in trials:
        groups.setdefault((trial.state, trial.text), []).append(trial)
    for group in groups.values():
        yield [trial.variant for trial in group], group[0]


def _finding(finding: Finding) -> Iterator[ShownLine]:
    rule = finding.rule
    yield ShownLine(rule.severity, f"{finding.found} [{rule.id}]")
    for text in (rule.known, f"do: {rule.action}", f"{SOURCE}{rule.source}"):
        yield ShownLine("", text, indented=True)


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
