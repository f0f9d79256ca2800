"""Fixtures of the export's tests: stand-ins for trained models, real images, and one export of each size."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hybrid_edge.runtime.manifest import Manifest
from hybrid_edge.runtime.spec import ModelSpec

if TYPE_CHECKING:
    from support.models.fullsize import FullExport
    from support.models.lowered import Source
    from support.models.whole import Whole


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
    from support.models.standin import write_crops

    return write_crops(tmp_path_factory.mktemp("photos"), 16, seed=77)


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The full-size stand-in as a file and as a model; HYBRID_EDGE_STANDIN names a file to keep it in between runs."""
    from support.models.standin import FULL, Sizes, make_standin

    from hybrid_edge.train.model_file import load_model

    kept = os.environ.get("HYBRID_EDGE_STANDIN")
    if kept and Path(kept).exists():
        return Path(kept), load_model(Path(kept))[0]
    path = Path(kept) if kept else tmp_path_factory.mktemp("standin") / "model.keras"
    return path, make_standin(FULL, path, Sizes(statistics=16, fit=72))


@pytest.fixture(scope="session")
def exported_full(standin: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> FullExport:
    """The full-size stand-in, exported by the command; that it takes 32 images is tested without exporting."""
    from support.models.fullsize import export_by_command
    from support.models.standin import write_crops

    folder = tmp_path_factory.mktemp("full")
    return export_by_command(*standin, write_crops(folder / "photos", 8, seed=77), folder)


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model's stand-in as a .keras file."""
    from support.models.standin import DIGITS, make_standin

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
    from support.models.standin import REDUCED, Sizes, make_standin

    path = tmp_path_factory.mktemp("reduced_standin") / "reduced.keras"
    model = make_standin(REDUCED.replace(class_labels=REDUCED.class_labels[:20]), path, Sizes(32, 68, 800))
    return _export(path, photos, tmp_path_factory.mktemp("reduced_bundle") / "bundle", model)


@pytest.fixture(scope="session")
def digits_source(exported_digits: Exported) -> Source:
    """The digits stand-in's graphs, measured."""
    return _source(exported_digits)


@pytest.fixture(scope="session")
def reduced_source(exported_reduced: Exported) -> Source:
    """The reduced Xception's graphs, measured."""
    return _source(exported_reduced, images=4)  # enough for a graph; no test looks at what it computes


@pytest.fixture(scope="session")
def small_source() -> Source:
    """Two LSTMs, batch normalization and a projection, a bias everywhere; its weights are random."""
    import keras
    from support.models.lowered import SMALL, randomize, source_of

    from hybrid_edge.train.model import build_model

    keras.utils.set_random_seed(0)
    spec = SMALL.replace(rnn_batch_norm=True)
    model = build_model(spec)
    randomize(model)
    return source_of(model, spec)


@pytest.fixture(scope="session", params=["gru", "bilstm"])
def cell_source(request: pytest.FixtureRequest) -> Source:
    """As ``small_source``, with other cells than LSTMs."""
    import keras
    from support.models.lowered import SMALL, randomize, source_of

    from hybrid_edge.train.model import build_model

    keras.utils.set_random_seed(0)
    spec = SMALL.replace(cell=request.param, rnn_batch_norm=True)
    model = build_model(spec)
    randomize(model)
    return source_of(model, spec)


@pytest.fixture(scope="session")
def whole(exported_digits: Exported, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The digits stand-in, exported with --fp32 --fp16 --int8; gated on images with Keras's own labels."""
    from support.models.whole import PHOTOS, export_whole, write_decided

    folder = tmp_path_factory.mktemp("whole")
    photos = write_decided(exported_digits.bundle, folder / "photos", PHOTOS, seed=79)
    return export_whole(exported_digits.file, photos, folder)


def _source(exported: Exported, images: int = 32) -> Source:
    import onnx
    from support.models.lowered import measured_source

    files = {variant.recurrent: exported.bundle / variant.file.path for variant in exported.manifest.variants}
    return measured_source(exported.spec, {form: onnx.load(file) for form, file in files.items()}, images)


def _export(file: Path, photos: Path, bundle: Path, model: Any = None) -> Exported:
    """A model that is at hand need not be built again, which takes seconds for an Xception."""
    from hybrid_edge.export.export_request import make_request
    from hybrid_edge.export.exporter import export
    from hybrid_edge.train.model_file import load_model

    result = export(make_request(file, images=photos, out=bundle))
    model = load_model(file)[0] if model is None else model
    return Exported(file, model, result.manifest.spec, bundle, result.manifest)
