"""Fixtures of the export's tests: stand-ins for trained models, real images, and one export of each size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid_edge.runtime.manifest import Manifest
from hybrid_edge.runtime.spec import ModelSpec


@dataclass(frozen=True)
class Exported:
    """A stand-in and the bundle that was made of it."""

    file: Path
    model: Any
    spec: ModelSpec
    bundle: Path
    manifest: Manifest

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.bundle / self.manifest.variants[0].file.path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen crops of real photographs, in four class folders; no stand-in was fitted on them."""
    from standin import write_crops

    return write_crops(tmp_path_factory.mktemp("photos"), 16, seed=77)


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model's stand-in as a .keras file."""
    from standin import DIGITS, make_standin

    path = tmp_path_factory.mktemp("digits_standin") / "digits.keras"
    make_standin(DIGITS, path)
    return path


@pytest.fixture(scope="session")
def exported_digits(digits_file: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The digits stand-in, exported."""
    return _export(digits_file, photos, tmp_path_factory.mktemp("digits_bundle") / "bundle")


@pytest.fixture(scope="session")
def exported_reduced(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A reduced Xception hybrid with a projection, exported."""
    from standin import REDUCED, Sizes, make_standin

    path = tmp_path_factory.mktemp("reduced_standin") / "reduced.keras"
    make_standin(REDUCED.replace(class_labels=REDUCED.class_labels[:20]), path, Sizes(32, 68, 800))
    return _export(path, photos, tmp_path_factory.mktemp("reduced_bundle") / "bundle")


def _export(file: Path, photos: Path, bundle: Path) -> Exported:
    from hybrid_edge.export.pipeline import export
    from hybrid_edge.export.request import make_request
    from hybrid_edge.train.model_file import load_model

    result = export(make_request(file, images=photos, out=bundle))
    model, spec = load_model(file)
    return Exported(file, model, spec, bundle, result.manifest)
