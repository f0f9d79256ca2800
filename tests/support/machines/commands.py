"""The project's commands, as processes of their own and in the tests' own process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Ended(NamedTuple):
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What was printed with ``--json``, a line each."""
        return [json.loads(line) for line in self.out.splitlines()]


def command(
    name: str,
    *arguments: object,
    cwd: Path | None = None,
    timeout: float = 300,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands as a user would, from this environment's own bin folder."""
    program = [Path(sys.executable).with_name(name), *map(str, arguments)]
    variables = os.environ | (environment or {})
    return subprocess.run(program, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False, env=variables)


def call_command(
    name: str,
    main: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
    capture: pytest.CaptureFixture[str],
    *arguments: object,
) -> Ended:
    """Run a command's ``main`` in this process, where what it imports is loaded already."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capture.readouterr()
    return Ended(int(ended.value.code or 0), out, re.sub(r"\x1b\[[0-9;]*m", "", err))
