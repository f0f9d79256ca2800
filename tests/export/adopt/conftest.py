"""Files of Keras 2, which no Keras here can write."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parents[2] / "data" / "keras2.zip"


@pytest.fixture(scope="session")
def keras2_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ``tests/support/models/keras2_files.py`` wrote under Keras 2."""
    folder = tmp_path_factory.mktemp("keras2")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder
