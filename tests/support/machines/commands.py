"""The project's commands as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["command"]


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
