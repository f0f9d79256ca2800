"""constraints-oldest.txt is what pyproject.toml allows, no newer and no older: ``make test-oldest`` installs it."""

from __future__ import annotations

import re
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def installed() -> tuple[list[str], list[str]]:
    """What the Makefile installs there: extras, and packages that the tests need beside them."""
    found = re.search(r"-c constraints-oldest\.txt -e '\.\[(.*?)\]' \\\n(.*)", (ROOT / "Makefile").read_text())
    assert found
    return found[1].split(","), found[2].split()


def lowest(lines: list[str]) -> dict[str, Version]:
    """The lower bounds of the requirements that hold on Python 3.10."""
    wanted = [Requirement(line) for line in lines]
    wanted = [item for item in wanted if not item.marker or item.marker.evaluate({"python_version": "3.10"})]
    bounds: dict[str, list[Version]] = {item.name: [] for item in wanted}
    for item in wanted:
        bounds[item.name] += [Version(part.version) for part in item.specifier if part.operator == ">="]
    assert [name for name, found in bounds.items() if not found] == []
    return {name: max(found) for name, found in bounds.items()}


def test_the_oldest_versions_are_pinned_and_nothing_else() -> None:
    extras, beside = installed()
    bounds = lowest(PROJECT["dependencies"] + [line for name in extras for line in EXTRAS[name]])
    tools = lowest(EXTRAS["train"] + EXTRAS["dev"])
    bounds |= {name: tools[name] for name in beside}
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    assert {name: Version(version) for name, _, version in pins} == bounds


def test_no_lower_bound_is_above_what_is_installed_for_development() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {name: version for name, _, version in (line.partition("==") for line in lines) if version}
    for line in [*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["cpu"], *EXTRAS["dev"]]:
        wanted = Requirement(line)
        if wanted.name in pinned and (not wanted.marker or wanted.marker.evaluate({"python_version": "3.11"})):
            assert wanted.specifier.contains(pinned[wanted.name]), line
