"""The ``hybrid-doctor`` command, as far as it needs nothing but Python: what its terminal needs may be broken, too."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from ..doctor.checkup import Checkup
from ..doctor.gathering import gather
from ..doctor.rule_table import RULES
from ..doctor.rules import judge
from ..doctor.shown import show
from ..doctor.trials import import_problem, try_imports

COMMAND_LINE = "hybrid_edge.runtime.commands.examine"
LIBRARIES = ("typer", "rich", "pydantic")  # that it loads


def main() -> NoReturn:
    """Run ``hybrid-doctor`` and leave the process with its exit code, also where what reads its options is broken."""
    problem = import_problem(COMMAND_LINE)
    if problem is not None:
        sys.exit(_examine_plainly(problem))
    from .. import console  # noqa: PLC0415  # proven by now
    from .examine import app  # noqa: PLC0415

    try:
        console.main(app)
    except Exception as error:  # what nobody thought of is no reason to say nothing
        sys.exit(_examine_plainly(f"{type(error).__name__}: {error}"))


def _examine_plainly(problem: str) -> int:
    """Examine this machine without options, and print what was found without colours; return the exit code."""
    facts = try_imports(gather(), LIBRARIES)
    facts = replace(facts, import_failures={**facts.import_failures, COMMAND_LINE: problem})
    checkup = Checkup(facts, judge(facts, RULES))
    with suppress(OSError):  # nobody reads
        if "--json" in sys.argv[1:]:
            print(json.dumps(checkup.to_json()), flush=True)  # noqa: T201
        else:
            print(f"Typer, rich or pydantic can't be used here, so options are left out: {problem}\n")  # noqa: T201
            for line in show(checkup):
                print(line.text.encode("ascii", "backslashreplace").decode(), flush=True)  # noqa: T201
    return checkup.exit_code


if __name__ == "__main__":
    main()
