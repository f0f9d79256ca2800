from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REQUIRED = "HYBRID_EDGE_REQUIRE_GPU"


@pytest.mark.parametrize("required", [True, False], ids=["make test-gpu", "pytest -m gpu"])
def test_tests_for_a_gpu_fail_with_make_where_there_is_none_and_are_skipped_elsewhere(required: bool) -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ntest-gpu:")[2].partition("\n\n")[0]
    assert f"\t{REQUIRED}=1 $(ON_GPU)/bin/python -m pytest -m gpu" in recipe
    environment = {name: value for name, value in os.environ.items() if name != REQUIRED}
    environment |= {"CUDA_VISIBLE_DEVICES": "", **({REQUIRED: "1"} if required else {})}
    options = "-m pytest -m gpu tests/gpu/test_engines.py -q -x -p no:cacheprovider"
    command = [sys.executable, *options.split()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (1 if required else 0), done.stdout
    assert ("1 error" if required else "skipped") in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("extra", ["", "tensorrt-cu12", "gpu,rtx"])
def test_another_engine_is_tested_in_an_environment_of_its_own(tmp_path: Path, extra: str) -> None:
    """CUDA 12's packages would replace CUDA 13's in the environment of ``make test``."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    venv = tmp_path / "venv"
    command = ["make", "-n", "test-gpu", f"VENV={venv}", f"GPU={extra}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    used = set(re.findall(rf"{venv}[^/ ]*(?=/bin/python)", done.stdout))
    assert used == {f"{venv}-{extra}" if extra else str(venv)}
    extras = re.findall(r"-e '\.\[(.*?)\]'", done.stdout)
    assert extras == [f"train,{extra}" if extra else "train,cpu,dev"]  # dev has TensorRT-RTX for CUDA 13
