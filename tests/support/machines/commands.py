"""The project's commands as processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["command"]


def command(
    name: str, *arguments: object, cwd: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands as a user would, from this environment's own bin folder."""
    program = Path(sys.executable).with_name(name)
    return subprocess.run(
        [program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
