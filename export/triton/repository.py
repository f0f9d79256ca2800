"""Writes a bundle as a model repository of Triton: configurations, graphs, labels, warm-up data and a README."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ...runtime.bundle import Bundle
from ...runtime.engines.engine_options import DEFAULT_PROFILE, Profile
from ...runtime.errors import BundleError
from ...runtime.manifest import MANIFEST, FileRecord, Variant
from ...runtime.storage import creating_folder
from .model_config import (
    ENCODED,
    LABELS_FILE,
    PREPROCESS,
    Fields,
    ensemble_config,
    ensemble_name,
    preprocess_config,
    text_format,
    variant_config,
)
from .repository_readme import readme

VERSION = "1"
MODEL_PY = """# runs inside Triton's Python backend, with hybrid-edge and what it needs installed there
from hybrid_edge.export.triton.serving import {kind} as TritonPythonModel  # noqa: F401, N814
"""


def write_repository(
    bundle: Bundle,
    folder: Path,
    *,
    precisions: Collection[str] = (),
    profile: Profile = DEFAULT_PROFILE,
    python: bool = False,
) -> tuple[str, ...]:
    """Write a bundle as a model repository, the whole of it or nothing, and return the ensembles' names.

    Args:
        bundle: the bundle, each of whose files is verified before it is copied.
        folder: the repository, which must not be there yet, or be empty.
        precisions: which precisions are written; without any, all that the bundle has.
        profile: batch sizes: the usual and the largest one are what Triton's batcher prefers, the largest its limit.
        python: run the variants on hybrid-edge's engines in the Python backend, in place of Triton's own backends.

    Raises:
        BundleError: the bundle is damaged, or has none of these precisions.
        UsageError: ``folder`` is not empty.
    """
    variants = [item for item in bundle.manifest.variants if not precisions or item.precision in precisions]
    if not variants:
        found = ", ".join(sorted({item.precision for item in bundle.manifest.variants}))
        raise BundleError(f"{bundle.root}: expected a variant of {' or '.join(precisions)}, found {found} alone")
    writer = _Writer(bundle, profile, python=python)
    with creating_folder(folder) as root:
        writer.write_preprocess(root / PREPROCESS)
        for variant in variants:
            writer.write_variant(root / variant.name, variant)
            writer.write_ensemble(root / ensemble_name(variant), variant)
        text = readme(bundle.spec, variants, profile, folder.absolute(), python=python)
        (root / "README.md").write_text(text, encoding="utf-8")
    return tuple(map(ensemble_name, variants))


class _Writer:
    """Writes a repository's models, each of which holds all that it needs, as one machine may fetch it alone."""

    def __init__(self, bundle: Bundle, profile: Profile, *, python: bool) -> None:
        self._bundle, self._profile, self._python = bundle, profile, python

    def write_preprocess(self, folder: Path) -> None:
        """Write the model from encoded image files to tensors."""
        self._start(folder, preprocess_config(self._bundle.spec, self._profile))
        self._write_python(folder, "ServedPreprocessing")
        image = self._bundle.read(self._bundle.manifest.golden.images[0].file)
        self._write_warmup(folder, {ENCODED: struct.pack("<I", len(image)) + image})  # as Triton packs a string

    def write_variant(self, folder: Path, variant: Variant) -> None:
        """Write the model from tensors to probabilities."""
        self._start(folder, variant_config(self._bundle.spec, variant, self._profile, python=self._python))
        self._write_labels(folder)
        if self._python:
            self._write_python(folder, "ServedClassifier", (variant.file, variant.golden))
        else:
            shutil.copyfile(self._bundle.verified(variant.file), folder / VERSION / "model.onnx")
        first = {name: tensor[0].astype("<f4") for name, tensor in self._bundle.golden_tensors().items()}
        self._write_warmup(folder, {name: tensor.tobytes() for name, tensor in first.items()})

    def write_ensemble(self, folder: Path, variant: Variant) -> None:
        """Write the ensemble of both; its version is an empty folder."""
        self._start(folder, ensemble_config(self._bundle.spec, variant, self._profile))
        self._write_labels(folder)

    def _start(self, folder: Path, config: Fields) -> None:
        (folder / VERSION).mkdir(parents=True)
        (folder / "config.pbtxt").write_text(text_format(config), encoding="utf-8")

    def _write_labels(self, folder: Path) -> None:
        lines = [" ".join(label.split()) + "\n" for label in self._bundle.labels]
        (folder / LABELS_FILE).write_text("".join(lines), encoding="utf-8")

    def _write_warmup(self, folder: Path, values: Mapping[str, bytes]) -> None:
        (folder / "warmup").mkdir()
        for name, data in values.items():
            (folder / "warmup" / name).write_bytes(data)

    def _write_python(self, folder: Path, kind: str, records: Sequence[FileRecord] = ()) -> None:
        """Write ``model.py`` and the part of the bundle that it opens, with the examples by which it checks itself."""
        (folder / VERSION / "model.py").write_text(MODEL_PY.format(kind=kind), encoding="utf-8")
        golden = self._bundle.manifest.golden
        part = folder / VERSION / "bundle"
        for record in (*records, golden.tensors, *(item.file for item in golden.images)):
            target = part / record.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._bundle.verified(record), target)
        shutil.copyfile(self._bundle.root / MANIFEST, part / MANIFEST)
