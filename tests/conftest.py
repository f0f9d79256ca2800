"""Fixtures that all tests share: a cache of their own, digits as class folders, a trained model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # one for each core: more threads would be in each other's way
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (-n 2 --dist loadgroup), tests that share dear fixtures go to the same one."""
    tests = Path(__file__).parent
    for item in items:
        room = item.path.relative_to(tests).parts[0]
        group = "fullsize" if item.get_closest_marker("fullsize") else room
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's own cache is neither read nor written by a test."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("HYBRID_EDGE_CACHE")
    os.environ["HYBRID_EDGE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["HYBRID_EDGE_CACHE"]
    else:
        os.environ["HYBRID_EDGE_CACHE"] = before


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's 1,797 digits as train/, val/ and test/ class folders."""
    from hybrid_edge.train.prepare import prepare_digits

    folder = tmp_path_factory.mktemp("digits")
    prepare_digits(folder)
    return folder


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 24 training and 6 validation images each: what a test can train on in seconds."""
    folder = tmp_path_factory.mktemp("few_digits")
    for split, count in (("train", 24), ("val", 6)):
        for label in "037":
            target = folder / split / label
            target.mkdir(parents=True)
            for image in sorted((digits / split / label).iterdir())[:count]:
                shutil.copy(image, target)
    return folder


def command(
    name: str, *arguments: object, cwd: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands as a user would, from this environment's own bin folder."""
    program = Path(sys.executable).with_name(name)
    return subprocess.run(
        [program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
