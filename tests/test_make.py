"""What make installs and runs: ``make test-gpu``, and constraints-oldest.txt, which is what pyproject.toml allows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.version import Version

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
