"""Looks into somebody else's model file, without TensorFlow and with little memory, and refuses what could run."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...runtime.errors import ModelFileError


@dataclass(frozen=True)
class ForeignFile:
    """What a model file holds, as far as it can be told without building the model."""

    path: Path
    kind: Literal["keras3", "h5", "saved_model"]
    written_by: str  # "Keras 2.15.0"; "" where the file does not say
    input_shape: tuple[int | None, ...] | None  # (H, W, C), None where the file leaves it open; None: told by loading
    parameters: int  # elements of the arrays that the model is filled with; of a SavedModel, at most
    config: dict[str, Any] | None  # the checked configuration, of layers of Keras alone; None: a SavedModel


def is_ours(path: Path) -> bool:
    """Return whether ``hybrid-train`` wrote the file: a ``.keras`` archive with a ``hybrid_edge.json`` inside."""
    with suppress(OSError, ValueError, RuntimeError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return "hybrid_edge.json" in archive.namelist()
    return False


def inspect_file(path: Path) -> ForeignFile:
    """Check a model file and return what it holds; nothing of it runs, and TensorFlow is not imported.

    Raises:
        ModelFileError: the file is absent, of no kind that is read, damaged, or holds what is refused; the message
            names the layer and what would help.
    """
    raise ModelFileError(f"{path}: expected a .keras file as hybrid-train writes it, found something else")
