"""Finds and opens the models that read a drawing, gives each a name of its own, and asks one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle, bundle_names
from ..classifier import Classifier, Prediction, load_announced
from ..errors import BundleError
from ..manifest import MANIFEST
from ..opencv import cv2
from .session import DrawRequest

RUNS = Path("runs")
KINDS = ("cnn", "rnn", "hybrid")  # the order in which the window shows them
BACKBONE = "digits"


@dataclass(frozen=True)
class Reader:
    """An open bundle under the name that the window shows."""

    name: str
    classifier: Classifier

    @property
    def variant(self) -> str:
        """The name of the variant that was taken from the bundle."""
        return self.classifier.selection.variant.name


@dataclass(frozen=True)
class Reading:
    """What one model says about a drawing: its name, its variant and its prediction."""

    reader: str
    variant: str
    prediction: Prediction


def newest_bundles() -> list[Path]:
    """Return ``./manifest.json`` or ``./bundle`` alone, else the newest digits model of each kind in ``runs/``.

    BundleError says that there is no bundle in any of these places.
    """
    for folder in (Path(), Path("bundle")):
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


def open_readers(request: DrawRequest, paths: Sequence[Path], closing: ExitStack) -> list[Reader]:
    """Open bundles and check them, in their order; ``closing`` closes them later. Errors are those of ``draw``.

    The models are named by their branches where these differ, else as ``bundle_names`` does.
    """
    bundles = [Bundle.open(path, request.trust) for path in paths]
    branches = [bundle.spec.branches for bundle in bundles]
    names = branches if len(set(branches)) == len(branches) else bundle_names(paths)
    readers = []
    for bundle, name in zip(bundles, names, strict=True):
        classifier = load_announced(
            bundle,
            f"opening {name}",
            backend=request.backend,
            precision=request.precision,
            batch_size=1,
            threads=request.threads,
            check=request.check,
        )
        readers.append(Reader(name, closing.enter_context(classifier)))
    return readers


def read_drawing(readers: Sequence[Reader], frame: npt.NDArray[np.uint8]) -> list[Reading]:
    """Ask every model about the same frame, (H, W) uint8 gray; BackendError says that an engine failed."""
    image = np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), np.uint8)
    return [Reading(reader.name, reader.variant, reader.classifier.predict([image])[0]) for reader in readers]
