from pathlib import Path

import pytest
from support.data.image_folders import add, numbered
from support.data.tiny_imagenet import write_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-5"
    write_source(root)
    return root


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(cache))
    return cache


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    root = tmp_path / "flat"
    add(root / "cat", *numbered(10))
    add(root / "ape", *numbered(5))
    add(root / "bee", *numbered(2))
    return root
