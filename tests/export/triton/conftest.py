from collections.abc import Iterator

import pytest
from support.models.bundles import make_bundle
from support.triton.tritonserver import TritonProcess, missing

from hybrid_edge.export.triton.repository import write_repository
from hybrid_edge.runtime.bundle import Bundle

VARIANTS = (("fp32", "cpu"), ("fp32", "cuda"), ("fp32", "tensorrt"), ("fp16", "cuda"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a variant for each engine; they share one graph."""
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("served") / "bundle", variants=VARIANTS))


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    """A real server with the CPU's variant on hybrid-edge's engine, and no other model loaded."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("triton")
    write_repository(bundle, folder / "models", python=True)
    with TritonProcess(folder / "models", ["classify-fp32-cpu"], folder / "server.log") as process:
        yield process
