"""A bundle for the tests on a GPU: one exported elsewhere (HYBRID_EDGE_TEST_BUNDLE), else digits, exported here.

A device without TensorFlow takes the first: ``HYBRID_EDGE_TEST_BUNDLE=bundle.tar python -m pytest -m gpu tests/gpu``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_edge.runtime.backends.tensorrt import find_tensorrt
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.gpu import Gpu
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.errors import BackendUnavailableError
from hybrid_edge.runtime.manifest import Variant

PRECISIONS = ("fp32", "fp16", "int8")
FORMS = ("lstm", "unrolled", "none")


@pytest.fixture(scope="session")
def machine() -> tuple[Library, Gpu]:
    """TensorRT and the GPU of this machine; ``make test-gpu`` is there to have them, and fails without."""
    try:
        return find_tensorrt()
    except BackendUnavailableError as error:
        (pytest.fail if "HYBRID_EDGE_REQUIRE_GPU" in os.environ else pytest.skip)(str(error))


@pytest.fixture(scope="session")
def bundle(machine: tuple[Library, Gpu], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All precisions and both forms of the recurrent branch."""
    if given := os.environ.get("HYBRID_EDGE_TEST_BUNDLE"):
        return Bundle.open(given)
    pytest.importorskip("tensorflow", reason="HYBRID_EDGE_TEST_BUNDLE names a bundle where TensorFlow is not installed")
    return export_digits(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(params=[(precision, form) for precision in PRECISIONS for form in FORMS], ids="-".join)
def variant(request: pytest.FixtureRequest, bundle: Bundle) -> Variant:
    """Each TensorRT variant that the bundle has."""
    precision, form = request.param
    for item in bundle.manifest.variants:
        if (item.target, item.precision, item.recurrent) == ("tensorrt", precision, form):
            return item
    pytest.skip(f"the bundle has no {precision} with the recurrent branch as {form}")


def export_digits(folder: Path) -> Bundle:
    """Export the digits stand-in with the real command, gated on images on which it decides."""
    from standin import DIGITS, make_standin, write_crops
    from whole import write_decided

    make_standin(DIGITS, folder / "digits.keras")
    calibration = write_crops(folder / "calibration", 300, seed=78)
    hybrid_export(folder, "--fp32", "--images", calibration, "--gate-images", 8, "--out", folder / "first")
    photos = write_decided(folder / "first", folder / "photos", 64, seed=77)
    every = ("--fp32", "--fp16", "--int8", "--images", photos, "--calib", calibration, "--out", folder / "bundle")
    hybrid_export(folder, *every)
    bundle = Bundle.open(folder / "bundle")
    found = {item.precision for item in bundle.manifest.variants if item.target == "tensorrt"}
    assert {"fp32", "fp16"} <= found, "only INT8 may be refused: not every GPU builds it"
    return bundle


def hybrid_export(folder: Path, *arguments: object) -> None:
    """Run the command; exit 3 says that a variant did not pass its gate, those that did are in the bundle."""
    command = [Path(sys.executable).with_name("hybrid-export"), folder / "digits.keras", *arguments]
    done = subprocess.run([str(item) for item in command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Engines are built once for all tests, and the user's are left alone."""
    os.environ["HYBRID_EDGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
