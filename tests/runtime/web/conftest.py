from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live.pipelines import Camera
from support.live.web_client import TOKEN, Served, serve
from support.models.bundles import SPEC, make_bundle

HOSTILE = '<img src=x onerror="alert(1)">\x1b[31m'  # a label, and the name of a camera


@pytest.fixture(scope="module")
def hostile_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = (HOSTILE.replace("\x1b", ""), *SPEC.class_labels[1:])  # a label has no control characters
    return make_bundle(tmp_path_factory.mktemp("web") / "bundle", SPEC.model_copy(update={"class_labels": labels}))


@pytest.fixture(scope="module")
def served(hostile_bundle: Path) -> Iterator[Served]:
    """A page for this machine alone, on two cameras."""
    cameras = Camera(fps=30, size=(300, 1200)), Camera(fps=10, name=HOSTILE)
    with serve(hostile_bundle, *cameras) as opened:
        yield opened


@pytest.fixture(scope="module")
def guarded(hostile_bundle: Path) -> Iterator[Served]:
    """A page that asks for the token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_EDGE_WEB_TOKEN", TOKEN)
        with serve(hostile_bundle) as opened:
            yield opened
