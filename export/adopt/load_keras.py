"""Builds the model of a checked ``.keras`` or ``.h5`` file from Keras's own layers, and fills it with its arrays."""

from __future__ import annotations

from pathlib import Path

from ...train.model import KerasModel
from .model_files import ForeignFile


def load_keras(path: Path, found: ForeignFile) -> KerasModel:
    """Return the model of a file that ``inspect_file`` found to be ``keras3`` or ``h5``: image (N, H, W, C) -> scores.

    Raises:
        ModelFileError: the arrays don't fit the configuration, or Keras can't build it; the message names the layer.
    """
    raise NotImplementedError(path, found)
