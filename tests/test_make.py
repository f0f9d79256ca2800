"""What make's targets promise, where a run of pytest on the project itself would not show it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REQUIRED = "HYBRID_EDGE_REQUIRE_GPU"


@pytest.mark.parametrize("required", [True, False], ids=["make test-gpu", "pytest -m gpu"])
def test_tests_for_a_gpu_fail_with_make_where_there_is_none_and_are_skipped_elsewhere(required: bool) -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ntest-gpu:")[2].partition("\n\n")[0]
    assert f"\t{REQUIRED}=1 $(BIN)/python -m pytest -m gpu" in recipe
    environment = {name: value for name, value in os.environ.items() if name != REQUIRED}
    environment |= {"CUDA_VISIBLE_DEVICES": "", **({REQUIRED: "1"} if required else {})}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "tests/gpu/test_engines.py",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (1 if required else 0), done.stdout
    assert ("1 error" if required else "skipped") in done.stdout.splitlines()[-1]
