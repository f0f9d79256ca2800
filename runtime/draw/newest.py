"""Find the bundles to open where none was named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..manifest import MANIFEST

__all__ = ["newest_bundles"]

HERE = (Path(), Path("bundle"))
RUNS = Path("runs")
KINDS = ("cnn", "rnn", "hybrid")  # the order in which the window shows them
BACKBONE = "digits"


def newest_bundles() -> list[Path]:
    """Return ``./manifest.json`` or ``./bundle`` alone, else the newest digits model of each kind in ``runs/``.

    Raises:
        BundleError: there is no bundle in any of these places.
    """
    for folder in HERE:
        if (folder / MANIFEST).exists():
            return [folder]
    newest: dict[str, Path] = {}
    for manifest in sorted(RUNS.glob(f"*/bundle/{MANIFEST}"), key=lambda path: path.stat().st_mtime):
        spec = _spec(manifest)
        if spec.get("backbone") == BACKBONE:
            newest[str(spec.get("branches"))] = manifest.parent
    if not newest:
        raise BundleError(
            f"no bundle of a digits model in {Path.cwd()}: looked for {MANIFEST}, bundle/{MANIFEST} and "
            f"{RUNS}/*/bundle/{MANIFEST}. Make one with hybrid-train DATA --preset digits and hybrid-export, "
            "or name bundles: hybrid-draw BUNDLE ..."
        )
    return [newest[kind] for kind in KINDS if kind in newest]


def _spec(manifest: Path) -> dict[str, Any]:
    """Return a manifest's spec; empty for what is no manifest, as opening a bundle says what is wrong with it."""
    try:
        spec = json.loads(manifest.read_bytes())["spec"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return spec if isinstance(spec, dict) else {}
