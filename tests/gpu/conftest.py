"""A bundle for the tests on a GPU: one exported elsewhere (HYBRID_EDGE_TEST_BUNDLE), else digits, exported here.

A device without TensorFlow takes the first: ``HYBRID_EDGE_TEST_BUNDLE=bundle.tar python -m pytest -m gpu tests/gpu``.
"""

import os

import pytest
from support.models.exported import export_digits

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
    exported = export_digits(tmp_path_factory.mktemp("gpu"), "--fp32", "--fp16", "--int8")
    found = {item.precision for item in exported.manifest.variants if item.target == "tensorrt"}
    assert {"fp32", "fp16"} <= found, "only INT8 may be refused: not every GPU builds it"
    return exported


@pytest.fixture(params=[(precision, form) for precision in PRECISIONS for form in FORMS], ids="-".join)
def variant(request: pytest.FixtureRequest, bundle: Bundle) -> Variant:
    precision, form = request.param
    for item in bundle.manifest.variants:
        if (item.target, item.precision, item.recurrent) == ("tensorrt", precision, form):
            return item
    pytest.skip(f"the bundle has no {precision} with the recurrent branch as {form}")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Engines are built once for all tests, and the user's are left alone."""
    os.environ["HYBRID_EDGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
