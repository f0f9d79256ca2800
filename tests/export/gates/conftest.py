"""Fixtures of the gates' tests: crops of photographs, and what Keras gives for them."""

from collections.abc import Callable
from typing import Any

import pytest
from support.models.standin import write_crops

from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.train.data import LabelledImage


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    """Eleven crops, of no class that the digits know."""
    folder = write_crops(tmp_path_factory.mktemp("crops"), 11, seed=5)
    return [LabelledImage(path, "crop") for path in sorted(folder.rglob("*.png"))]


@pytest.fixture(scope="session")
def references(images: list[LabelledImage], request: pytest.FixtureRequest) -> Callable[[str], tuple[Any, Reference]]:
    """An export by its size, and what its Keras model gives."""
    kept: dict[str, tuple[Any, Reference]] = {}

    def find(size: str) -> tuple[Any, Reference]:
        if size not in kept:
            exported = request.getfixturevalue(f"exported_{size}")
            kept[size] = exported, Reference.of(exported.model, exported.spec, images)
        return kept[size]

    return find


@pytest.fixture
def digits(references: Any) -> tuple[Any, Reference]:
    return references("digits")  # type: ignore[no-any-return]
