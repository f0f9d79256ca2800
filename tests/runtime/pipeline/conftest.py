"""Fixtures of the pipeline's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live.pipelines import stage_threads

from hybrid_edge.runtime import Classifier


@pytest.fixture
def classifier(folder: Path) -> Iterator[Classifier]:
    """The small bundle's."""
    with Classifier.load(folder, check=False) as opened:
        yield opened


@pytest.fixture
def every_thread_ends() -> Iterator[None]:
    """None of the pipeline's threads is left that was not there before."""
    before = stage_threads()
    yield
    assert stage_threads() == before
