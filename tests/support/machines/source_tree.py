"""The project's source as a wheel is built from it, and whether pip can have here what a build needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROOMS = ("train", "calib", "export", "runtime")


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run this environment's Python, as with ``-m pip``."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def copy_source(tree: Path) -> Path:
    """What a wheel is built from, without anything that was built here before."""
    tree.mkdir(parents=True)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("src", *ROOMS):
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=unwanted)
    return tree


def require_index(folder: Path) -> None:
    """Skip where packages can't be had: everything else that fails in a build is a fault of ours."""
    brief = ("--retries", 1, "--timeout", 15)
    result = python("-m", "pip", *brief, "download", "--quiet", "--no-deps", "--dest", folder, "setuptools>=78.1.1")
    if result.returncode:
        pytest.skip(f"no package index can be reached: {result.stderr.strip().splitlines()[-1]}")
