from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live.pipelines import stage_threads

from hybrid_edge.runtime import Classifier


@pytest.fixture
def classifier(folder: Path) -> Iterator[Classifier]:
    with Classifier.load(folder, check=False) as opened:
        yield opened


@pytest.fixture
def every_thread_ends() -> Iterator[None]:
    before = stage_threads()
    yield
    assert stage_threads() == before
