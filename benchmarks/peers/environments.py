"""Optional environments: a peer's packages, installed by name on first use, kept away from the project's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .errors import PeerError

__all__ = ["PACKAGES", "environment_python"]

PACKAGES = {"openvino": ("openvino", "nncf"), "litert": ("ai-edge-litert", "numpy")}
INSTALLED = ".installed"  # written last: a folder without it was left by an interrupted installation
LIMIT = 600.0  # seconds for an installation


def environment_python(name: str, folder: Path, given: Mapping[str, str]) -> str:
    """The interpreter of an environment, which is made in ``folder`` if it is not there.

    Args:
        name: of the environment, a key of ``PACKAGES``; empty for this process's own interpreter.
        folder: where environments are kept.
        given: interpreters that the user named, by environment.

    Raises:
        PeerError: it can't be made here; the message says why.
    """
    if not name:
        return sys.executable
    if name in given:
        return given[name]
    place = folder / name
    python = place / "bin" / "python"
    if not (place / INSTALLED).exists():
        _run([sys.executable, "-m", "venv", "--clear", str(place)], name)
        _run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES[name]], name)
        (place / INSTALLED).touch()
    return str(python)


def _run(words: list[str], name: str) -> None:
    packages = " ".join(PACKAGES[name])
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{packages} can't be installed here: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise PeerError(f"{packages} can't be installed here: {lines[-1].strip()[:300]}")
