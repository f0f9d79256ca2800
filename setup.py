"""Builds every wheel with its SBOM (PEP 770), and the same bytes whenever, wherever and by whomever it is built.

Only what pyproject.toml can't say is here. The SBOM is CycloneDX: the package, and each distribution that it asks for,
which is not in the wheel: so there is no version of it, and what is asked for stands beside it as in the metadata.
"""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

ZIP_EPOCH = "315532800"  # 1980-01-01, the earliest date in a zip


class ReproducibleWheel(bdist_wheel):
    """Setuptools' own, with the SBOM among the metadata and the same rights for every file."""

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        """Write the metadata, also those of an editable installation, and beside them the SBOM."""
        super().egg2dist(egginfo_path, distinfo_path)
        sboms = Path(distinfo_path, "sboms")
        sboms.mkdir()
        content = bill_of_materials(PathDistribution(Path(distinfo_path)))
        (sboms / "hybrid-edge.cdx.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def write_wheelfile(self, wheelfile_base: str, *arguments: Any, **settings: Any) -> None:
        """Write the last of the files that the archive will hold, and give all of them the same rights."""
        super().write_wheelfile(wheelfile_base, *arguments, **settings)
        for path in Path(wheelfile_base).parent.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


def bill_of_materials(package: PathDistribution) -> dict[str, Any]:
    """Make the CycloneDX document of a package and of what its metadata requires, with and without extras."""
    name, version = package.metadata["Name"], package.version
    own = f"pkg:pypi/{name}@{version}"
    wanted: dict[str, list[str]] = {}
    for line in package.requires or []:
        found = re.match(r"[A-Za-z0-9._-]+", line)
        wanted.setdefault(re.sub(r"[-_.]+", "-", found[0]).lower(), []).append(line)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": {
                "type": "library",
                "bom-ref": own,
                "name": name,
                "version": version,
                "description": package.metadata["Summary"],
                "licenses": [{"expression": package.metadata["License-Expression"]}],
                "purl": own,
            },
        },
        "components": [component(each, lines) for each, lines in sorted(wanted.items())],
        "dependencies": [{"ref": own, "dependsOn": [f"pkg:pypi/{each}" for each in sorted(wanted)]}],
    }


def component(name: str, requirements: list[str]) -> dict[str, Any]:
    """Describe a distribution that is required; one that only extras ask for is optional."""
    always = any("extra ==" not in line for line in requirements)
    return {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}",
        "name": name,
        "scope": "required" if always else "optional",
        "purl": f"pkg:pypi/{name}",
        "properties": [{"name": "hybrid-edge:requirement", "value": line} for line in requirements],
    }


os.environ.setdefault("SOURCE_DATE_EPOCH", ZIP_EPOCH)
os.umask(0o022)
setup(cmdclass={"bdist_wheel": ReproducibleWheel})
