"""What setup.py adds to a wheel: its SBOM (PEP 770), and the same bytes however it is built."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.machines.source_tree import copy_source, require_index

SBOM = "sboms/hybrid-edge.cdx.json"


def build(folder: Path, umask: int = 0o022, **environment: str) -> Path:
    """A wheel, built from a copy of the source whose files have the rights that this umask leaves."""
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", copy_source(folder / "tree")]
    for path in (folder / "tree").rglob("*"):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    settings = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"} | environment
    done = subprocess.run(command, env=settings, umask=umask, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_index(tmp_path_factory.mktemp("index"))
    return build(tmp_path_factory.mktemp("first"), TZ="UTC", LC_ALL="C", PYTHONHASHSEED="1")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> PathDistribution:
    return PathDistribution(next(item for item in zipfile.Path(wheel).iterdir() if item.name.endswith(".dist-info")))


@pytest.fixture(scope="module")
def sbom(metadata: PathDistribution) -> dict[str, Any]:
    return json.loads(metadata.read_text(SBOM) or "")


def test_the_same_source_gives_the_same_wheel_in_another_folder_for_another_user_at_another_time(
    wheel: Path, tmp_path: Path
) -> None:
    again = build(tmp_path / "a" / "deeper place", 0o077, TZ="Asia/Tokyo", LC_ALL="C.UTF-8", PYTHONHASHSEED="2")
    members = [[(item.filename, item.CRC, item.external_attr) for item in zipfile.ZipFile(wheel).infolist()]]
    members += [[(item.filename, item.CRC, item.external_attr) for item in zipfile.ZipFile(again).infolist()]]
    assert members[0] == members[1]
    assert hashlib.sha256(wheel.read_bytes()).digest() == hashlib.sha256(again.read_bytes()).digest()


def test_everybody_may_read_what_is_installed_and_nobody_but_its_owner_may_change_a_module(wheel: Path) -> None:
    modes = {item.filename: item.external_attr >> 16 & 0o777 for item in zipfile.ZipFile(wheel).infolist()}
    assert {mode for name, mode in modes.items() if not name.endswith("/RECORD")} == {0o644}


def test_the_sbom_is_cyclonedx_and_recorded_among_the_wheels_files(sbom: dict[str, Any], wheel: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    fault = validation.JsonStrictValidator(SchemaVersion.from_version(sbom["specVersion"])).validate_str(
        json.dumps(sbom)
    )
    assert fault is None, fault
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith("/RECORD")]
        assert f"/{SBOM},sha256=" in archive.read(record).decode()


def test_the_sbom_names_the_package_and_everything_that_its_metadata_asks_for(
    sbom: dict[str, Any], metadata: PathDistribution
) -> None:
    package = sbom["metadata"]["component"]
    assert (package["name"], package["version"]) == (metadata.metadata["Name"], metadata.version)
    wanted: dict[str, set[str]] = {}
    for line in metadata.requires or []:
        wanted.setdefault(canonicalize_name(Requirement(line).name), set()).add(line)
    told = {each["name"]: {item["value"] for item in each["properties"]} for each in sbom["components"]}
    assert told == wanted
    core = {Requirement(line).name for line in metadata.requires or [] if "extra ==" not in line}
    assert {each["name"] for each in sbom["components"] if each["scope"] == "required"} == core
    (own,) = sbom["dependencies"]
    assert own["ref"] == package["bom-ref"]
    assert own["dependsOn"] == sorted(each["bom-ref"] for each in sbom["components"])
