"""Loads a SavedModel folder, which can hold any operation, by way of a child process that can do no harm."""

from __future__ import annotations

from pathlib import Path

from ...train.model import KerasModel
from .model_files import ForeignFile


def load_saved_model(path: Path, found: ForeignFile) -> KerasModel:
    """Return a model of one layer, the frozen graph of a SavedModel's signature: image (N, H, W, C) -> scores (N, K).

    Raises:
        ModelFileError: an operation is not pure mathematics (it is named), the signature is not one image to one
            vector of scores, or the child process failed or ran out of its time or memory.
    """
    raise NotImplementedError(path, found)
